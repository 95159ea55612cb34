"""`tokendream envs check`: how an environment becomes tokens, how fast it is, and what looks wrong in random play."""

from __future__ import annotations

import itertools
import time
import zlib
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from rich.console import Console
from rich.table import Table

from tokendream.config.config import Config
from tokendream.config.env import EnvConfig
from tokendream.config.limits import LONG
from tokendream.envs.registry import make
from tokendream.envs.vector import Transition, play_again
from tokendream.nn.seen import Seen
from tokendream.spaces.actions import Discrete
from tokendream.spaces.layout import Layout
from tokendream.spaces.observations import Spaces, parts_of
from tokendream.tokenizers.build import build
from tokendream.tokenizers.fixed import FARTHEST, VectorTokenizer


class InSpace(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Notes what lay outside the space that it is said to be in: the part's name, and its last such value."""

    outside: ClassVar[dict[str, Any]] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._look(self.observation_space, observation, "observation")
        return observation, info

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        self._look(self.observation_space, result[0], "observation")
        return result

    def _look(self, space: gym_spaces.Space[Any], value: Any, name: str) -> None:
        if space.contains(value):
            return
        if isinstance(space, gym_spaces.Dict) and isinstance(value, dict):
            parts = [(str(key), part, value.get(key)) for key, part in space.spaces.items()]
        elif isinstance(space, gym_spaces.Tuple) and isinstance(value, tuple):
            parts = [(str(i), part, inner) for i, (part, inner) in enumerate(zip(space.spaces, value, strict=False))]
        else:
            self.outside[name] = value
            return
        for key, part, inner in parts:
            self._look(part, inner, key if name == "observation" else f"{name}.{key}")


@dataclass(frozen=True)
class TokenGroup:
    """Tokens of one kind that are neighbours in a block."""

    part: str
    modality: str
    vocabulary: int
    count: int


class Extremes:
    """The least and the largest of every number in what was observed: no frame is kept."""

    def __init__(self, layout: Layout, first: np.ndarray, *, stretched: bool) -> None:
        self._layout, self._least, self._stretched = layout, layout.unpack(first), stretched
        self._most = dict(self._least)

    def see(self, frame: np.ndarray) -> None:
        """Compare one more frame."""
        for name, values in self._layout.unpack(frame).items():
            self._least[name] = np.minimum(self._least[name], values)
            self._most[name] = np.maximum(self._most[name], values)

    def lines(self) -> list[str]:
        """What never changed: whole images and maps, single features and fields. And features of which M sees hardly
        anything: those within two of a tokenizer's values, and those beyond the last."""
        found = []
        for part in self._layout.parts:
            least, most = self._least[part.name], self._most[part.name]
            same = least == most
            if same.all():
                found.append(f"{part.name} never changed")
            elif same.ndim == 1 and same.any():
                found.append(f"{part.name} never changed in {_places(same)}")
            if part.modality == "vector":
                V = VectorTokenizer(part, 2, stretched=self._stretched)
                low, high = (V.encode(torch.from_numpy(x)).numpy() for x in (least, most))
                if (narrow := ~same & (high - low < 2)).any():
                    found.append(f"{part.name} moves too little in {_places(narrow)}, within two of {V.vocabulary} "
                                 "values told apart: a wrapper that multiplies it would show more")  # fmt: skip
                if (far := np.maximum(-least, most) > FARTHEST).any():
                    found.append(f"{part.name} lies beyond ±{FARTHEST:.0f} in {_places(far)}, where all values are "
                                 "one: a wrapper that divides it would show more")  # fmt: skip
        return found


def _places(which: np.ndarray) -> str:
    return ", ".join(map(str, np.flatnonzero(which)))


@dataclass(frozen=True)
class Check:
    """What random play showed."""

    spaces: Spaces
    rows: list[TokenGroup]
    steps_per_second: float
    rewards: list[float]
    games: int
    cut_off: int
    """Games that were truncated."""
    env: EnvConfig
    suspicious: list[str]

    def show(self, console: Console, name: str) -> None:
        """The table, and what was seen."""
        table = Table(title=f"{name}: a step in tokens", title_justify="left")
        for column in ("slots", "part", "modality", "vocabulary", "tokens"):
            table.add_column(column, justify="left" if column in ("part", "modality") else "right")
        at = 0
        for row in self.rows:
            slots = f"{at}" if row.count == 1 else f"{at}-{at + row.count - 1}"
            table.add_row(slots, row.part, row.modality, f"{row.vocabulary}", f"{row.count}")
            at += row.count
        console.print(table)
        paid = [reward for reward in self.rewards if reward]
        between = f", from {min(paid):.4g} to {max(paid):.4g}" if paid else ""
        over = f"{self.games} games were over{f', {self.cut_off} of them cut off' if self.cut_off else ''}"
        if not self.games:
            over += (f"; one is cut off after {self.env.max_frames:,} steps (--env.max-frames), in an evaluation after "
                     f"{self.env.eval_max_frames:,} (--env.eval-max-frames)")  # fmt: skip
        for line in (
            f"{len(self.rewards)} random steps: {self.steps_per_second:,.0f} a second, {over}",
            f"rewards: {len(paid)} steps paid{between}",
            *(f"suspicious: {line}" for line in self.suspicious or ["nothing"]),
        ):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def check(config: Config, steps: int, seed: int) -> Check:
    """Play so many random steps of the config's environment. Raises EnvError as training would."""
    InSpace.outside.clear()
    env = config.env
    if env.family != "atari":
        wrappers = ",".join(filter(None, (env.wrappers, f"{__name__}:InSpace")))
        config = replace(config, env=replace(env, wrappers=wrappers))
    envs = make(config, 1, evaluation=False)
    try:
        rng, seeds = np.random.default_rng(seed), itertools.count(seed)
        extremes = Extremes(envs.spaces.observation, envs.reset([next(seeds)])[0], stretched=config.tokenizer.stretched)
        rewards, games, cut_off, seconds = [], 0, 0, 0.0
        actions: list[int] = []
        came: list[Any] = []  # of the first game
        for _ in range(steps):
            action = envs.spaces.actions.random(rng, 1)
            began = time.perf_counter()
            now = envs.step(action)
            seconds += time.perf_counter() - began
            extremes.see(now.frame[0])
            rewards.append(float(now.reward[0]))
            if not games:
                actions.append(int(action[0]))
                came.append(_digest(now))
            if now.over[0]:
                games, cut_off = games + 1, cut_off + (not now.end[0])
                extremes.see(envs.reset([next(seeds)])[0])
        again = [_digest(now) for _, _, now in play_again(envs, {0: (seed, actions)}) if now is not None]
    finally:
        envs.close()
    rows = token_rows(config, envs.spaces)
    length = sum(row.count for row in rows)
    suspicious = [f"{name} lay outside its space: {_brief(value)}" for name, value in InSpace.outside.items()]
    suspicious += extremes.lines()
    if again != came:
        step = next(i for i, (a, b) in enumerate(zip(again, came, strict=True)) if a != b) + 1
        suspicious.append(f"its first game, played again from its seed, was another at step {step}: without the same "
                          "game for the same seed there are no films, and a resumed run is another one")  # fmt: skip
    if not any(rewards):
        suspicious.append(f"no reward in {steps} random steps: an agent may never find one by chance")
    suspicious += _sizes({abs(reward) for reward in rewards if reward}, config.world_model.reward_head)
    if length > LONG:
        suspicious.append(f"a step has {length} tokens, which is slow: fewer parts (--env.keys), a coarser image "
                          "(--env.size)")  # fmt: skip
    return Check(envs.spaces, rows, steps / max(seconds, 1e-9), rewards, games, cut_off, env, suspicious)


def _digest(now: Transition) -> tuple[int, float, bool, bool]:
    """What a step caused, short."""
    return zlib.crc32(now.frame[0].tobytes()), float(now.reward[0]), bool(now.end[0]), bool(now.over[0])


def _sizes(sizes: set[float], head: str) -> list[str]:
    """Rewards of these sizes that the world model would not tell apart, in words."""
    bins = "--world-model.reward-head symlog --actor-critic.value-head symlog"
    if head == "sign" and len(sizes) > 1:
        other = "--world-model.reward-head seen" if len(sizes) < Seen.outputs else bins
        return [f"rewards differ in size, and the world model learns their sign alone: {other}"]
    if head == "seen" and len(sizes) >= Seen.outputs:
        return [f"rewards have {len(sizes)} sizes, and the world model learns the first {Seen.outputs - 1}: {bins}"]
    return []


def token_rows(config: Config, spaces: Spaces) -> list[TokenGroup]:
    """The block of a step: the parts of the observation, then the components of the action."""
    _, slots = build(config.tokenizer, spaces.observation)
    rows = [TokenGroup(part.part, part.modality, part.vocabulary, part.K) for part in parts_of(slots)]
    if isinstance(spaces.actions, Discrete):
        return [*rows, TokenGroup("action", "choice", spaces.actions.n, 1)]
    named = (
        (name.partition("[")[0], size) for name, size in zip(spaces.action_names, spaces.actions.sizes, strict=True)
    )
    return [
        *rows,
        *(TokenGroup(part, "choice", size, len(list(own))) for (part, size), own in itertools.groupby(named)),
    ]


def _brief(value: Any) -> str:
    text = " ".join(str(value).split())
    kind = f"{value.dtype} {value.shape} " if isinstance(value, np.ndarray) else f"{type(value).__name__} "
    return kind + (text if len(text) <= 60 else f"{text[:59]}…")
