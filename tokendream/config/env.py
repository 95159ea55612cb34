"""The environment of a run and its protocol: which one it is, what of it is read, and its limits.

A new family of environments has its name in `FAMILIES`, and a part of its own where its protocol has more.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from tokendream.config.ranges import Count, CountOrZero, NonNegative, Range

FAMILIES = ("atari", "gym", "dmc", "minatar", "minigrid", "vizdoom", "crafter")
"""Families of environments, as `env.id` names them; `envs.registry` has an entry for each."""

REPEATS = {"dmc": 2, "vizdoom": 4}
"""How many steps an action usually lasts in a family, where that is not one."""


@dataclass(frozen=True)
class AtariConfig:
    """What Atari's protocol has beyond other environments'."""

    frame_skip: Count = 4
    """Raw frames an agent step lasts."""
    noop_max: Count = 30
    """Most random no-ops at the start of a training game; at least one, but with frames = ale 0 to one fewer."""
    eval_noop_max: Count = 1
    """The same for evaluation; 1 means exactly one, as published, with frames = ale none."""
    life_loss_ends: bool = True
    """Whether losing a life is an `end` d_t in training (the game itself goes on)."""
    frames: Literal["published", "ale"] = "published"
    """published shrinks each raw frame by an antialiased bilinear filter, then takes the maximum of the last two, and
    counts one no-op more; ale averages areas after the maximum, in ALE's threads."""
    noop_after_life_loss: bool = False
    """Whether a step without an action, not counted, follows a lost life, as in the published code."""
    sign_rewards: bool = False
    """Whether each raw frame of a training game pays the sign of its reward alone (Simulus)."""
    time_limit_ends: bool = False
    """Whether a training game that is truncated is stored as an `end`, as in the published code."""


@dataclass(frozen=True)
class EnvConfig:
    """The environment and its protocol (Atari 100K)."""

    id: str = "atari:Breakout"
    """Also --env, --env-id or --game: an Atari game (atari:Breakout, Breakout), one of another family (dmc:walker-walk;
    tokendream envs lists them) or any Gymnasium environment (CartPole-v1, module:Id-v0, which imports the module first,
    or gym:Id)."""
    keys: str = ""
    """The parts of an observation that are read, with commas between them: pose,camera.front; by default all."""
    read_as: Literal["auto", "image", "map", "vector"] = "auto"
    """What arrays are read as, where their spaces do not say it well: pictures, maps of cells, or features."""
    size: Annotated[int, Range(8)] = 64
    """Height and width of an image in pixels."""
    max_frames: Count = 20_000
    """Raw frames (steps of the environment, of which an action lasts action_repeat) after which a training game is
    truncated."""
    eval_max_frames: Count = 108_000
    """Raw frames after which an evaluation game is truncated."""
    step_timeout: NonNegative = 120.0
    """Seconds in which a reset or a step must answer, or the run stops; 0 waits for ever."""
    action_repeat: CountOrZero = 0
    """Steps of the environment that an action lasts, rewards summed; 0 is what is usual in its family: 2 for dmc, 4 for
    vizdoom, else 1. Atari has env.atari.frame_skip instead."""
    kwargs: str = "{}"
    """What the environment is made with, a JSON object: --env.kwargs '{"size": 8}'."""
    wrappers: str = ""
    """Gymnasium wrappers to put around it, the innermost first: module:Wrapper,module:Other."""
    atari: AtariConfig = AtariConfig()
    """Atari's own protocol."""

    @property
    def family(self) -> str:
        """Which of FAMILIES it belongs to: the one before the colon, else atari for a bare name, else gym."""
        prefix, colon, _ = self.id.partition(":")
        if colon and prefix in FAMILIES:
            return prefix
        return "gym" if re.search(r"[/:]|-v\d+$", self.id) else "atari"

    @property
    def name(self) -> str:
        """Its name within the family: Breakout, tokendream/Catch-v0, module:Id-v0."""
        return self.id.removeprefix(f"{self.family}:")

    @property
    def label(self) -> str:
        """What people call it: its name, with that of its family where the name alone means another."""
        return self.name if EnvConfig(self.name).family == self.family else self.id

    @property
    def repeat(self) -> int:
        """Steps that an action lasts."""
        return self.action_repeat or REPEATS.get(self.family, 1)

    @property
    def arguments(self) -> dict[str, Any]:
        """`kwargs` as a dict."""
        return json.loads(self.kwargs)

    @property
    def game(self) -> str | None:
        """The name of an Atari game; None for any other environment."""
        return self.name if self.family == "atari" else None

    def for_evaluation(self) -> EnvConfig:
        """The same environment with an evaluation's limits in the place of training's: whole games, scored as such."""
        atari = replace(
            self.atari,
            noop_max=self.atari.eval_noop_max,
            life_loss_ends=False,
            noop_after_life_loss=False,
            time_limit_ends=False,
            sign_rewards=False,
        )
        return replace(self, max_frames=self.eval_max_frames, atari=atari)
