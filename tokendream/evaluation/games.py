"""Full games played by a policy, several at a time, and played again from what is kept of them.

A finished game is its seed and its actions: whatever else is wanted of it, above all its frames, is played again
from those (`replay_game`), because environments obey their seeds. Numpy only; the agent comes in as a `Player`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int64, Integer, UInt8

from tokendream.envs.vector import EnvError, Envs, SeedError, play_again


@runtime_checkable
class Player(Protocol):
    """Chooses an action in every env; `first` marks those where a new game starts, whose memory is to be forgotten."""

    def __call__(self, frame: UInt8[np.ndarray, " n *O"], first: Bool[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]: ...


def random_player(
    draw: Callable[[np.random.Generator, int], Int64[np.ndarray, " n"]], rng: np.random.Generator
) -> Player:
    """Uniformly random actions, by `draw` of an action space."""

    def act(frame: UInt8[np.ndarray, " n *O"], first: Bool[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        return draw(rng, len(first))

    return act


@dataclass(frozen=True)
class Game:
    """A finished game: played again from `seed` with `actions` it is the same to the bit."""

    seed: int
    score: float
    actions: Integer[np.ndarray, " T"]
    checksum: int | None = None
    """Of its T + 1 frames, in order; None where nobody saw them."""

    @property
    def length(self) -> int:
        """Agent steps."""
        return len(self.actions)


@dataclass
class _Open:
    """A game being played in an env."""

    index: int
    checksum: int
    score: float = 0.0
    actions: list[int] = field(default_factory=list)


def game_seeds(seed: int, episodes: int) -> list[int]:
    """The seed of every game of an evaluation; game i has the same one however many follow it.

    A stream of its own: no game of the training run with the same seed starts from one of these.
    """
    children = np.random.SeedSequence(seed).spawn(episodes)
    return [int(child.generate_state(1)[0] >> 1) for child in children]


def play_games(
    envs: Envs,
    policy: Player,
    episodes: int,
    seed: int,
    *,
    progress: Callable[[int, int, int], None] = lambda done, total, steps: None,
) -> list[Game]:
    """Play exactly `episodes` full games, in the order of their seeds; an env that finishes takes the next one.

    Every game that is started counts, so short games are not favoured, and game i has its own seed whatever the
    number of envs: a deterministic policy gives the same games with 1 env and with 16. A policy that draws for
    all envs from one generator is reproducible too, but only with the same number of envs. `progress` is called
    with (games finished, `episodes`, steps of all games) at the start and after each step of the envs. Raises
    EnvError when `episodes` < 1.
    """
    if episodes < 1:
        raise EnvError(f"expected at least 1 episode to play, not {episodes}")
    seeds = game_seeds(seed, episodes)
    small = np.uint8 if envs.spaces.actions.n <= 256 else np.int64
    done: dict[int, Game] = {}
    waiting = iter(range(episodes))
    playing: list[_Open | None] = [None] * envs.n
    first = np.zeros(envs.n, bool)
    progress(0, episodes, steps := 0)
    frame = _refill(envs, playing, first, waiting, seeds)
    while len(done) < episodes:
        actions = policy(frame, first)
        transition = envs.step(actions)
        frame = transition.frame
        first = np.zeros(envs.n, bool)
        finished = False
        for i, game in enumerate(playing):
            if game is None:
                continue
            steps += 1
            game.actions.append(int(actions[i]))
            game.score += float(transition.reward[i])
            game.checksum = _checksum(frame[i], game.checksum)
            if transition.over[i]:
                actions_taken = np.array(game.actions, small)
                done[game.index] = Game(seeds[game.index], game.score, actions_taken, game.checksum)
                playing[i] = None
                finished = True
        progress(len(done), episodes, steps)
        if finished and len(done) < episodes:
            frame = _refill(envs, playing, first, waiting, seeds)
    return [done[i] for i in range(episodes)]


def _refill(
    envs: Envs, playing: list[_Open | None], first: Bool[np.ndarray, " n"], waiting: Iterator[int], seeds: Sequence[int]
) -> UInt8[np.ndarray, " n *O"]:
    """Start the next games in the free envs, marking them in `first`; returns every env's frame."""
    free = [i for i, game in enumerate(playing) if game is None]
    starting = dict(zip(free, waiting, strict=False))  # in this order: a game that finds no env goes on waiting
    frame = envs.reset([seeds[starting[i]] if i in starting else None for i in range(envs.n)])
    for i, index in starting.items():
        playing[i] = _Open(index, _checksum(frame[i]))
        first[i] = True
    return frame


def replay_game(envs: Envs, game: Game) -> Iterator[UInt8[np.ndarray, "*O"]]:
    """The frames of a finished game, its length + 1 of them, played again in env 0 one at a time.

    Raises SeedError where the game does not come out with the same score and, at its end, the same frames, which
    means that the environment does not obey its seed.
    """
    score, checksum = 0.0, 0
    for left, frame, transition in play_again(envs, {0: (game.seed, game.actions.tolist())}):
        checksum = _checksum(frame[0], checksum)
        yield frame[0]
        if transition is not None:
            score += float(transition.reward[0])
            if bool(transition.over[0]) != (left == 1):
                break
        elif score == game.score and game.checksum in (None, checksum):
            return
    raise SeedError(
        f"the game with seed {game.seed} came out differently when played again: the environment does not obey its seed"
    )


def _checksum(frame: UInt8[np.ndarray, "*O"], before: int = 0) -> int:
    return zlib.crc32(frame.tobytes(), before)
