"""What goes over the websocket: pictures as binary messages, everything else as JSON.

A picture is a safetensors file, deflated: its metadata's `state` is JSON, its tensors are those of `View`. What a
viewer sends is one small JSON object, `{"do": name, ...}`, read strictly into one of the classes below.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy

from tokendream.config.parsing import read
from tokendream.errors import TokendreamError, nearest, require
from tokendream.play.view import View

LARGEST = 1024
"""Most bytes of a viewer's message."""


class WireError(TokendreamError):
    """A message that means nothing; one line that says why."""


@dataclass(frozen=True)
class SetMode:
    """Another mode, by name."""

    mode: str


@dataclass(frozen=True)
class Hold:
    """The buttons held now, separated by tabs (an action's name may hold spaces)."""

    buttons: str


@dataclass(frozen=True)
class Act:
    """Take this action."""

    action: int


@dataclass(frozen=True)
class Pause:
    """Stop or go on."""

    on: bool


@dataclass(frozen=True)
class Step:
    """One step."""


@dataclass(frozen=True)
class Rewind:
    """Undo steps."""

    steps: int

    def __post_init__(self) -> None:
        require(self.steps >= 1, "rewind.steps", "at least 1", self.steps)


@dataclass(frozen=True)
class Speed:
    """Steps a second."""

    fps: int


@dataclass(frozen=True)
class Reset:
    """Back to where this began."""


@dataclass(frozen=True)
class New:
    """A new game, the next episode."""


@dataclass(frozen=True)
class Futures:
    """Show futures, or no longer."""

    on: bool


@dataclass(frozen=True)
class Choose:
    """Go on in a future."""

    future: int


@dataclass(frozen=True)
class Open:
    """Replay an episode, by its number in the list."""

    episode: int


@dataclass(frozen=True)
class Seek:
    """Go to a frame of the replay."""

    frame: int


@dataclass(frozen=True)
class Record:
    """Start or stop recording."""

    on: bool


@dataclass(frozen=True)
class Picture:
    """Write a picture of the present view."""


@dataclass(frozen=True)
class Reload:
    """Read the run's last checkpoint."""


@dataclass(frozen=True)
class Take:
    """Ask for the controls."""


@dataclass(frozen=True)
class Release:
    """Give the controls back."""


@dataclass(frozen=True)
class Ack:
    """So many pictures have arrived; the last of them has been drawn."""

    pictures: int

    def __post_init__(self) -> None:
        require(1 <= self.pictures <= 64, "ack.pictures", "in 1..64", self.pictures)


CONTROLS: dict[str, type[Any]] = {
    "mode": SetMode, "hold": Hold, "act": Act, "pause": Pause, "step": Step, "rewind": Rewind, "speed": Speed,
    "reset": Reset, "new": New, "futures": Futures, "choose": Choose, "open": Open, "seek": Seek, "record": Record,
    "picture": Picture, "reload": Reload, "take": Take, "release": Release, "ack": Ack,
}  # fmt: skip
"""What a viewer can say."""


def parse(text: str) -> Any:
    """A viewer's message as one of CONTROLS. Raises WireError, one line, for whatever else it may be."""
    if len(text) > LARGEST:
        raise WireError(f"a message has at most {LARGEST} characters, not {len(text)}")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise WireError("a message must be JSON") from None
    if not isinstance(data, dict) or not isinstance(data.get("do"), str):
        raise WireError('a message must be an object with a word "do"')
    name = data.pop("do")
    if name not in CONTROLS:
        raise WireError(f"unknown message {name[:40]!r}; nearest: {nearest(name[:40], CONTROLS)}")
    try:
        return read(CONTROLS[name], data, name)
    except ValueError as error:
        raise WireError(str(error)[:200]) from None


def pack(view: View, **state: Any) -> bytes:
    """A picture as a binary message; `state` joins the view's own."""
    arrays: dict[str, np.ndarray] = {f"panel.{name}": panel for name, panel in view.panels.items()}
    arrays |= {f"tokens.{name}": tokens for name, tokens in view.tokens.items()}
    arrays |= {"probs": view.probs, "trace": view.trace}
    if view.entropy is not None:
        arrays["entropy"] = view.entropy
    if view.futures is not None:
        arrays["futures"] = view.futures
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    metadata = {"state": json.dumps(view.state | state, allow_nan=False)}
    return zlib.compress(safetensors.numpy.save(arrays, metadata), 1)
