"""What every environment looks like to the agent: `Envs`, several games played in lockstep, and `Transition`.

Everything here is numpy: frames are uint8, laid out as `spaces` says, and an action is one integer. Where the games
come from is the business of `atari`, `gym` and `families`; how a run chooses between them, of `registry`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from tokendream.errors import TokendreamError
from tokendream.spaces.observations import Spaces


class EnvError(TokendreamError):
    """An environment that cannot be made or played; the message says what was expected and what came."""


class UnknownError(EnvError):
    """A name that no environment of its family has."""


class SeedError(EnvError):
    """An environment that gave something else for a seed and actions that it was given before."""


@dataclass(frozen=True)
class Transition:
    """What one step caused, in every environment.

    `frame` follows the step; where the game is over it is its final frame. `end` is d_t: terminated, or a
    life lost where that counts; truncation is no end. `over` means that the game is finished (terminated or
    truncated) and that the environment must be reset before it plays on.
    """

    frame: UInt8[np.ndarray, " n *O"]
    reward: Float32[np.ndarray, " n"]
    end: Bool[np.ndarray, " n"]
    over: Bool[np.ndarray, " n"]


@runtime_checkable
class Envs(Protocol):
    """`n` games in lockstep, each reset explicitly with a seed of its own; nothing resets by itself.

    `reset(seed)` followed by the same actions gives the same frames and rewards to the bit, whatever the
    others do and whatever was played before: resuming a run and filming a game replay actions. One that is over or
    was never reset ignores its action: its frame stays, its reward is 0, `end` is False and `over` is True.
    """

    n: int
    spaces: Spaces

    def reset(self, seeds: Sequence[int | None]) -> UInt8[np.ndarray, " n *O"]:
        """Start a new game where the seed is not None; returns the current frame of every environment."""

    def step(self, actions: Int[np.ndarray, " n"]) -> Transition:
        """Act once in every environment."""

    def close(self) -> None:
        """Free what the environments hold; closing twice is allowed."""


def play_again(
    envs: Envs, games: Mapping[int, tuple[int, Sequence[int]]]
) -> Iterator[tuple[int, UInt8[np.ndarray, " n *O"], Transition | None]]:
    """Take the actions of games from their seeds, side by side; `games` says seed and actions by environment.

    They end together: one of k actions begins when k are left. Yields how many are left, the frames, and what the next
    actions cause, None at the end; an environment whose game has not begun shows whatever it does.
    """
    for left in range(max(len(actions) for _, actions in games.values()), -1, -1):
        begun = {i: seed for i, (seed, actions) in games.items() if len(actions) == left}
        if begun:
            frame = envs.reset([begun.get(i) for i in range(envs.n)])
        if left == 0:
            yield left, frame, None
            return
        taken = np.zeros(envs.n, np.int64)
        for i, (_, actions) in games.items():
            if len(actions) >= left:
                taken[i] = actions[-left]
        transition = envs.step(taken)
        yield left, frame, transition
        frame = transition.frame


def check_seeds(seeds: Sequence[int | None], n: int) -> None:
    """Raise EnvError unless there is one seed (a non-negative integer or None) for each environment."""
    if len(seeds) != n:
        raise EnvError(f"expected {n} seeds, one for each environment, not {len(seeds)}")
    for seed in seeds:
        if seed is not None and seed < 0:
            raise EnvError(f"a seed must be non-negative or None, not {seed}")


def check_actions(actions: Int[np.ndarray, " *_"], n: int, n_actions: int, where: str = "") -> None:
    """Raise EnvError unless there is one action in 0..n_actions-1 for each environment.

    Cheap, and worth it: ALE's worker threads never answer a step with an invalid action, so a bad one would
    hang the run instead of failing.
    """
    if actions.shape != (n,):
        raise EnvError(f"{where}expected {n} actions, one for each environment, not an array of shape {actions.shape}")
    if actions.min() < 0 or actions.max() >= n_actions:
        raise EnvError(f"{where}actions must lie in 0..{n_actions - 1}, not {actions.tolist()}")
