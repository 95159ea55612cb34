"""What a viewer can say: a JSON list of a command and its argument, if it takes one, read strictly."""

from __future__ import annotations

import json
from typing import Any

from tokendream.errors import nearest
from tokendream.play.view import PlayError

LARGEST = 1024
"""Most characters of a message."""

COMMANDS: dict[str, tuple[type, ...]] = {
    "mode": (str,),  # its name
    "hold": (str,),  # the buttons held now, separated by tabs: an action's name may hold spaces
    "act": (int,),  # what if: the number of an action
    "pause": (bool,),
    "step": (),
    "rewind": (int,),  # steps
    "speed": (int,),  # steps a second
    "reset": (),
    "new": (),
    "futures": (bool,),
    "choose": (int,),  # which future
    "open": (int,),  # which episode of the list
    "seek": (int,),  # a frame of the replay
    "record": (bool,),
    "picture": (),
    "reload": (),
    "take": (),  # the controls
    "release": (),
    "ack": (int,),  # so many pictures have arrived, the last of them has been drawn
}
"""Every command and the types of its arguments."""


def parse(text: str) -> tuple[str, list[Any]]:
    """A command and its arguments. Raises PlayError, one line, for whatever else a message may be."""
    if len(text) > LARGEST:
        raise PlayError(f"a message has at most {LARGEST} characters, not {len(text)}")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise PlayError("a message must be JSON") from None
    if not isinstance(message, list) or not message or not isinstance(message[0], str):
        raise PlayError("a message must be a list that begins with a command")
    name, *arguments = message
    if name not in COMMANDS:
        raise PlayError(f"unknown command {name[:40]!r}; nearest: {nearest(name[:40], COMMANDS)}")
    if [type(argument) for argument in arguments] != list(COMMANDS[name]):
        wanted = ", ".join(kind.__name__ for kind in COMMANDS[name]) or "nothing"
        raise PlayError(f"{name} takes {wanted}, not {json.dumps(arguments)[1:-1][:80] or 'nothing'}")
    return name, arguments
