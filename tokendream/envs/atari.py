"""Atari games under the Atari 100K protocol, over ale-py's vector environment.

Frame skip with the maximum of the last two frames, SxS RGB, the minimal action set, no sticky actions, unclipped
rewards, no-ops at the start. In training a lost life is an `end`, but the game goes on from there.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import ale_py
import gymnasium
import numpy as np
from ale_py.vector_env import AtariVectorEnv
from jaxtyping import Bool, Int, UInt8

from tokendream.config.env import EnvConfig
from tokendream.envs.atari100k import ATARI_100K
from tokendream.envs.vector import EnvError, Transition, UnknownError, check_actions, check_seeds
from tokendream.errors import nearest
from tokendream.spaces.observations import image_spaces

SEEDS = 2**31
"""ALE takes seeds below this; of larger ones it gets the remainder."""


@functools.cache
def games() -> dict[str, str]:
    """Every game that ale-py can play: its name (as in the benchmark) -> the name of its ROM.

    Taken from the ids that ale-py registers with Gymnasium, not from its ROM folder: four ROMs there (Combat,
    Joust, MazeCraze, Warlords) are for two players and make ALE end the whole process when loaded.
    """
    specs = [spec for spec in gymnasium.registry.values() if spec.namespace == "ALE"]
    return {spec.name: spec.kwargs["game"] for spec in sorted(specs, key=lambda spec: spec.name)}


def find_game(name: str) -> tuple[str, str]:
    """A game's (name, ROM) from its name in any spelling: `MsPacman`, `ms_pacman` and `mspacman` are one game.

    Raises UnknownError naming the nearest of the benchmark's 26 games.
    """
    folded = re.sub(r"[\s_-]", "", name).lower()
    for game, rom in games().items():
        if game.lower() == folded:
            return game, rom
    raise UnknownError(
        f"unknown Atari game {name!r}; nearest of Atari 100K: {nearest(name, ATARI_100K)} "
        f"(any of ale-py's {len(games())} games can be played)"
    )


class AtariEnvs:
    """One Atari game, played `n` times in lockstep.

    Uses ALE's partial resets with a seed for each game (ale-py 0.12.1; in 0.12.0 they never return). A reset with a
    seed loads the ROM again, so that a game depends on its seed and its actions only.
    """

    def __init__(self, config: EnvConfig, n: int) -> None:
        _, rom = find_game(config.name)
        size, protocol = config.size, config.atari
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner
        # Lives are counted here rather than by ALE (`life_loss_info`), although its rule is the same one: its flag
        # folds a lost life into "terminated", where it cannot be told from the end of a game that shows lives left,
        # and it hides a truncation that falls on the same step. `episodic_life` would restart the game.
        self._env: AtariVectorEnv | None = AtariVectorEnv(
            rom,
            n,
            img_height=size,
            img_width=size,
            grayscale=False,
            stack_num=1,
            frameskip=protocol.frame_skip,
            maxpool=True,
            noop_max=protocol.noop_max,
            max_num_frames_per_episode=config.max_frames,
            repeat_action_probability=0.0,
            full_action_space=False,
            reward_clipping=False,
            use_fire_reset=False,
            episodic_life=False,
            life_loss_info=False,
        )
        self.n = n
        names = tuple(action.name for action in self._env.ale.get_action_set())
        self.spaces = image_spaces(size, len(names), names)
        self._life_loss_ends = protocol.life_loss_ends
        self._frame = np.zeros((n, 3, size, size), np.uint8)
        self._lives = np.zeros(n, np.int32)
        self._over = np.ones(n, bool)
        self._started = False

    def reset(self, seeds: Sequence[int | None]) -> UInt8[np.ndarray, "n 3 S S"]:
        check_seeds(seeds, self.n)
        mask = np.array([seed is not None for seed in seeds])
        # ALE wants all games reset once before it resets some; the others stay over.
        ale_mask = mask if self._started else np.ones(self.n, bool)
        ale_seeds = np.array([(seed or 0) % SEEDS for seed, m in zip(seeds, ale_mask, strict=True) if m])
        if mask.any():
            frame, info = self._open().reset(seed=ale_seeds, options={"reset_mask": ale_mask})
            self._started = True
            self._over &= ~mask
            self._lives[mask] = info["lives"][mask]
            self._show(frame, mask)
        return self._frame.copy()

    def step(self, actions: Int[np.ndarray, " n"]) -> Transition:
        check_actions(actions, self.n, self.spaces.actions.n)
        if not self._started:
            raise EnvError("reset must come before the first step")
        frame, reward, terminated, truncated, info = self._open().step(actions.astype(np.int32))
        # A game that is over plays on inside ALE, which restarts it by itself; nothing of that is shown.
        live = ~self._over
        lives = info["lives"]
        # Zero lives are no lost life: some games show it for a moment before the game is over (Qbert), and where
        # it is the last life being played, the end of the game follows anyway.
        lost = (lives < self._lives) & (lives > 0)
        end = (terminated | lost) if self._life_loss_ends else terminated
        self._lives[live] = lives[live]
        self._over = self._over | terminated | truncated
        self._show(frame, live)
        return Transition(self._frame.copy(), (reward * live).astype(np.float32), end & live, self._over.copy())

    def close(self) -> None:
        self._env = None  # the destructor joins ALE's threads

    def _open(self) -> AtariVectorEnv:
        if self._env is None:
            raise EnvError("these environments are closed")
        return self._env

    def _show(self, frame: UInt8[np.ndarray, "n 1 S S 3"], where: Bool[np.ndarray, " n"]) -> None:
        self._frame[where] = frame[where, 0].transpose(0, 3, 1, 2)
