"""Which keys mean which action: buttons that are held, several at a time, as on the games' own joysticks.

An action is a set of buttons. Names made of UP, DOWN, LEFT, RIGHT and FIRE, as all of Atari's are, mean those; a name
that says nothing gets a button, and a letter, of its own. Keys are named by their place (`KeyboardEvent.code`), so
that a keyboard's language changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

BUTTONS = {
    "UP": ("ArrowUp", "KeyW"),
    "DOWN": ("ArrowDown", "KeyS"),
    "LEFT": ("ArrowLeft", "KeyA"),
    "RIGHT": ("ArrowRight", "KeyD"),
    "FIRE": ("Space",),
}
"""The buttons of a joystick and their keys."""

IDLE = {"NOOP", "NONE", "STAY", "IDLE", "NOTHING", "DO_NOTHING", "WAIT"}
"""Names of an action that is no button."""

SPARE = "YUIOHJKLNMBZQ"
"""Letters of the other buttons, in order; no command of the page has one of them."""

_WORD = re.compile(r"UP|DOWN|LEFT|RIGHT|FIRE")
_ALL = re.compile(r"(?:UP|DOWN|LEFT|RIGHT|FIRE)+")


@dataclass(frozen=True)
class Layout:
    """The buttons of a game. `actions[a]` are those of action a; `idle` is what no button means."""

    names: tuple[str, ...]
    actions: tuple[frozenset[str], ...]
    idle: int
    keys: dict[str, tuple[str, ...]]

    @staticmethod
    def of(names: Sequence[str]) -> Layout:
        """The layout of a game by its actions' names. A game without an idle action idles with its first one."""
        actions: list[frozenset[str]] = []
        keys: dict[str, tuple[str, ...]] = {}
        spare = iter(SPARE)
        for number, name in enumerate(names):
            word = re.sub(r"[\s_-]", "", name).upper()
            buttons = frozenset(_WORD.findall(word)) if _ALL.fullmatch(word) else frozenset()
            if (not buttons and name.upper() not in IDLE) or buttons in actions:
                buttons = frozenset({f"{name}#{number}" if name in names[:number] else name})
                letter = next(spare, None)
                keys[next(iter(buttons))] = (f"Key{letter}",) if letter else ()
            actions.append(buttons)
        used = frozenset().union(*actions)
        keys = {button: BUTTONS[button] for button in BUTTONS if button in used} | keys
        idle = actions.index(frozenset()) if frozenset() in actions else 0
        return Layout(tuple(names), tuple(actions), idle, keys)

    def choose(self, held: Sequence[str]) -> int:
        """The action of the buttons held, in the order in which they were pressed.

        Where no action is all of them, the one that is most of them, and of several the one with the newest.
        """
        fitting = [a for a, buttons in enumerate(self.actions) if buttons and buttons <= set(held)]
        if not fitting:
            return self.idle
        newest = {button: place for place, button in enumerate(held)}
        return max(fitting, key=lambda a: (len(self.actions[a]), sorted(newest[b] for b in self.actions[a])[::-1]))

    def describe(self) -> list[dict[str, object]]:
        """Every action for the page: its name and its buttons."""
        return [{"name": n, "buttons": sorted(b)} for n, b in zip(self.names, self.actions, strict=True)]
