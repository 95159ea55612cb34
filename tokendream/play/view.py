"""What can be asked for and what is shown: modes, moments, and a picture of one.

A `View` holds all of a picture, never a difference to the one before, so that any of them may be dropped.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from tokendream.agent.world_model import WorldModel
from tokendream.dream.imagine import Dream, Step
from tokendream.errors import TokendreamError
from tokendream.play.playing_agent import PolicyValue
from tokendream.reports import media


class PlayError(TokendreamError):
    """Something that cannot be done now; one line for the person."""


@dataclass(frozen=True)
class Mode:
    """Who acts where. `truth`: what really happens, if anything. `free`: a dream goes on by itself, beside it or alone.

    Without `free` the dream is the world model's prediction of each next frame, corrected by what came.
    """

    name: str
    truth: Literal["game", "recording"] | None
    free: bool
    who: Literal["agent", "person", "recording"]


MODES = {
    mode.name: mode
    for mode in (
        Mode("agent-game", "game", False, "agent"),
        Mode("person-game", "game", False, "person"),
        Mode("agent-dream", None, True, "agent"),
        Mode("person-dream", None, True, "person"),
        Mode("agent-both", "game", True, "agent"),
        Mode("person-both", "game", True, "person"),
        Mode("replay", "recording", False, "recording"),
        Mode("replay-both", "recording", True, "recording"),
    )
}
"""The modes in the order of their keys, 1 to 8."""

SPEEDS = (1, 2, 4, 8, 15, 30, 60)
"""Steps a second. An Atari game of frame skip 4 is played at 15."""


@dataclass(frozen=True)
class LastStep:
    """The step that led to a picture: what M expected of it, and what came.

    `reward`, `end` and `over` are those of the world that leads: the truth where there is one, else the dream's.
    `reward_probs` are those of a negative, no and a positive reward, `expected` is the reward that M expected, of which
    it may have learned the sign alone; `entropy` is that of what each token of a dream is drawn
    from, in nats.
    """

    action: int
    reward: float
    end: bool
    over: bool
    reward_probs: tuple[float, float, float]
    expected: float
    end_prob: float
    entropy: Float32[np.ndarray, " K"]

    @staticmethod
    def of(dreamt: Step, M: WorldModel, reward: float, end: bool, over: bool) -> LastStep:
        """From a step of M with B = 1, and what came of it."""
        p = dreamt.prediction
        log_p = (p.next_frame[0, 0].float() / M.config.token_temperature).log_softmax(-1)
        below, none, above = M.rewards.sign_logits(p.reward[0, 0]).float().softmax(-1).tolist()
        expected = float(M.rewards.number(p.reward[0, 0]))
        entropy = -(log_p.exp() * log_p).sum(-1)
        end_prob = float(p.end[0, 0].float().softmax(-1)[1])
        return LastStep(
            int(dreamt.action), reward, end, over, (below, none, above), expected, end_prob,
            entropy.float().cpu().numpy(),
        )  # fmt: skip


@dataclass(frozen=True)
class SessionState:
    """All that going back must bring back.

    `seen`: the memories that follow the truth; its tokens are those of the true frame. `dream`: the dream's own, or
    the last prediction, None before the first. `policy_value`: C's of whichever of them leads.
    """

    seen: Dream
    dream: Dream | None
    policy_value: PolicyValue
    last_step: LastStep | None
    score: float
    step: int


@dataclass(frozen=True)
class View:
    """A picture of the session; `state` is plain data for JSON. Panel "screen" is the game as people see it.

    `trace[:, t]` of the last steps: value, reward, and the reward that M expected. `entropy` belongs to panel "dream".
    """

    panels: dict[str, UInt8[np.ndarray, "3 H W"]]
    tokens: dict[str, Int32[np.ndarray, " K"]]
    probs: Float32[np.ndarray, " A"]
    trace: Float32[np.ndarray, "3 T"]
    state: dict[str, Any]
    entropy: Float32[np.ndarray, " K"] | None = None
    futures: UInt8[np.ndarray, "n 3 H W"] | None = None


TRACE = 240
"""Steps in the scrolling plot."""


def trace(moments: Sequence[SessionState]) -> Float32[np.ndarray, "3 T"]:
    """Value, reward and expected reward of the last steps."""
    steps = [(m.policy_value.value, m.last_step.reward, m.last_step.expected) for m in moments[-TRACE:] if m.last_step]
    return np.array(steps, np.float32).reshape(-1, 3).T


FACTS = ("preset", "budget", "score", "random player", "processor")
"""What is shown of what an exported file knows of its agent."""


def facts_line(facts: Mapping[str, str]) -> str:
    """What people ask first about an agent, on one line; empty where nothing is known."""
    return " · ".join(f"{name} {facts[name]}" for name in FACTS if name in facts)


def picture(view: View) -> UInt8[np.ndarray, "3 H W"]:
    """The view as one picture: its panels but the screen in a row, or the futures in as square a grid as they make."""
    if view.futures is None:
        return np.concatenate([panel for name, panel in view.panels.items() if name != "screen"], axis=-1)
    return media.sheet(view.futures, across=math.ceil(len(view.futures) ** 0.5), gap=0, ground=0)


def png_url(image: UInt8[np.ndarray, "3 H W"]) -> str:
    """A picture as the source of an element of the page."""
    return f"data:image/png;base64,{base64.b64encode(media.png(image)).decode()}"


def pack(view: View, **state: Any) -> str:
    """The picture as a message: its state, to which `state` is added, frames as PNG, all else as lists of numbers."""
    numbers = {"tokens": view.tokens, "probs": view.probs, "trace": view.trace, "entropy": view.entropy}
    frames = view.panels if view.futures is None else {"futures": picture(view)}
    panels = {name: png_url(frame) for name, frame in frames.items()}
    message = {"state": view.state | state, "panels": panels} | numbers
    return json.dumps(message, default=lambda array: np.round(array.tolist(), 4).tolist(), allow_nan=False)
