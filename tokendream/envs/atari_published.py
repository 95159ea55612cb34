"""Atari games as REM's published code shows them: frames, no-ops and life losses to the letter.

`envs.atari` averages areas after the maximum of two raw frames, inside ALE and in several threads. Here each raw frame
is shrunk by a bilinear filter with antialiasing first, and the maximum is taken of the small ones: small moving things
are dimmer, the ball of Breakout by a third or more. A game has between 1 and `noop_max` no-ops at its start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ale_py
import numpy as np
from ale_py import roms
from jaxtyping import Int, UInt8
from PIL import Image

from tokendream.config.env import EnvConfig
from tokendream.envs.atari import SEEDS, find_game
from tokendream.envs.vector import EnvError, Transition, check_actions, check_seeds
from tokendream.spaces.observations import image_spaces

NOOP = 0
"""The action that does nothing: the first of every game's minimal set."""


def shrink(screen: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "3 S S"]:
    """A raw frame at `size` x `size` by a triangle filter as wide as the shrinking asks for (antialiasing)."""
    small = Image.fromarray(screen).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(small).transpose(2, 0, 1)


@dataclass
class _Game:
    """One emulator and the game that is open in it."""

    ale: ale_py.ALEInterface
    frame: UInt8[np.ndarray, "3 S S"]
    lives: int = 0
    over: bool = True
    started: bool = False


class PublishedAtariEnvs:
    """`n` games of one Atari game, each in an emulator of its own, played one after the other."""

    def __init__(self, config: EnvConfig, n: int) -> None:
        _, rom = find_game(config.name)
        path = roms.get_rom_path(rom)
        assert path is not None, f"ale-py lists {rom} and has no file of it"
        self.n, self._rom = n, path
        self._config, self._protocol = config, config.atari
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner
        black = np.zeros((3, config.size, config.size), np.uint8)
        self._games = [_Game(ale_py.ALEInterface(), black) for _ in range(n)]
        self._load(self._games[0].ale, 0)
        self._actions = self._games[0].ale.getMinimalActionSet()
        names = tuple(action.name for action in self._actions)
        self.spaces = image_spaces(config.size, len(names), names)

    def reset(self, seeds: Sequence[int | None]) -> UInt8[np.ndarray, "n 3 S S"]:
        check_seeds(seeds, self.n)
        for game, seed in zip(self._open(), seeds, strict=True):
            if seed is not None:
                self._begin(game, seed)
        return self._frames()

    def step(self, actions: Int[np.ndarray, " n"]) -> Transition:
        check_actions(actions, self.n, self.spaces.actions.n)
        if not any(game.started for game in self._open()):
            raise EnvError("reset must come before the first step")
        played = [self._play(game, int(action)) for game, action in zip(self._open(), actions, strict=True)]
        reward, end = zip(*played, strict=True)
        over = np.array([game.over for game in self._games])
        return Transition(self._frames(), np.array(reward, np.float32), np.array(end), over)

    def close(self) -> None:
        self._games = []

    def _open(self) -> list[_Game]:
        if not self._games:
            raise EnvError("these environments are closed")
        return self._games

    def _load(self, ale: ale_py.ALEInterface, seed: int) -> None:
        """Set what ALE reads when it loads a game, and load it: a game depends on its seed and actions only."""
        ale.setInt("random_seed", seed % SEEDS)
        ale.setFloat("repeat_action_probability", 0.0)
        ale.loadROM(self._rom)

    def _begin(self, game: _Game, seed: int) -> None:
        self._load(game.ale, seed)
        game.ale.reset_game()  # in six games a ROM that was only loaded is in another state
        for _ in range(int(np.random.default_rng(seed).integers(1, self._protocol.noop_max + 1))):
            game.ale.act(self._actions[NOOP])
            if game.ale.game_over():
                game.ale.reset_game()
        game.lives, game.over, game.started = game.ale.lives(), False, True
        game.frame = shrink(game.ale.getScreenRGB(), self._config.size)

    def _play(self, game: _Game, action: int) -> tuple[float, bool]:
        """One decision: its reward and whether it is an end."""
        if game.over:
            return 0.0, False
        reward = self._hold(game, action)
        # Zero lives are no lost life: see `envs.atari`.
        lost = 0 < game.ale.lives() < game.lives
        game.lives = game.ale.lives()
        if lost and self._protocol.noop_after_life_loss and not game.over:
            self._hold(game, NOOP)  # its reward is not counted, as published
            game.lives = game.ale.lives()
        late = game.ale.getEpisodeFrameNumber() >= self._config.max_frames
        end = game.over or (lost and self._protocol.life_loss_ends) or (late and self._protocol.time_limit_ends)
        game.over = game.over or late
        return reward, end

    def _hold(self, game: _Game, action: int) -> float:
        """Hold an action for `frame_skip` raw frames; the frame is the maximum of the last two, each shrunk first."""
        reward, seen = 0.0, []
        skip = self._protocol.frame_skip
        for i in range(skip):
            paid = game.ale.act(self._actions[action])
            reward += np.sign(paid) if self._protocol.sign_rewards else paid
            game.over = game.ale.game_over()
            if i >= skip - 2 or game.over:
                seen.append(shrink(game.ale.getScreenRGB(), self._config.size))
            if game.over:
                break
        game.frame = np.maximum.reduce(seen[-2:])
        return float(reward)

    def _frames(self) -> UInt8[np.ndarray, "n 3 S S"]:
        return np.stack([game.frame for game in self._games])
