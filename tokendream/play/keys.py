"""Which keys mean which action: buttons that are held, several at a time, as on the games' own joysticks.

An action is a set of buttons. Names made of UP, DOWN, LEFT, RIGHT and FIRE, as all of Atari's are, mean those; a name
that says nothing gets a button, and a letter, of its own. Keys are named by their place (`KeyboardEvent.code`), so
that a keyboard's language changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tokendream.errors import nearest
from tokendream.play.view import PlayError
from tokendream.spaces.actions import ActionSpace, Discrete
from tokendream.spaces.observations import Spaces

BUTTONS = {
    "UP": ("ArrowUp", "KeyW"),
    "DOWN": ("ArrowDown", "KeyS"),
    "LEFT": ("ArrowLeft", "KeyA"),
    "RIGHT": ("ArrowRight", "KeyD"),
    "FIRE": ("Space",),
}
"""The buttons of a joystick and their keys."""

NO_BUTTON = {"NOOP", "NONE", "STAY", "IDLE", "NOTHING", "DO_NOTHING", "WAIT"}
"""Names of an action that is no button."""

SPARE = "YUIOHJKLNMBZQ"
"""Letters of the other buttons, in order; no command of the page has one of them."""

_WORD = re.compile(r"UP|DOWN|LEFT|RIGHT|FIRE")
_ALL = re.compile(r"(?:UP|DOWN|LEFT|RIGHT|FIRE)+")


@dataclass(frozen=True)
class KeyLayout:
    """The buttons of a game. `actions[a]` are those of action a; `idle` is what no button means."""

    names: tuple[str, ...]
    actions: tuple[frozenset[str], ...]
    idle: int
    keys: dict[str, tuple[str, ...]]

    @staticmethod
    def of(names: Sequence[str]) -> KeyLayout:
        """The layout of a game by its actions' names. A game without an idle action idles with its first one."""
        actions: list[frozenset[str]] = []
        keys: dict[str, tuple[str, ...]] = {}
        spare = iter(SPARE)
        for number, name in enumerate(names):
            word = re.sub(r"[\s_-]", "", name).upper()
            buttons = frozenset(_WORD.findall(word)) if _ALL.fullmatch(word) else frozenset()
            if (not buttons and name.upper() not in NO_BUTTON) or buttons in actions:
                buttons = frozenset({f"{name}#{number}" if name in names[:number] else name})
                letter = next(spare, None)
                keys[next(iter(buttons))] = (f"Key{letter}",) if letter else ()
            actions.append(buttons)
        used = frozenset().union(*actions)
        keys = {button: BUTTONS[button] for button in BUTTONS if button in used} | keys
        idle = actions.index(frozenset()) if frozenset() in actions else 0
        return KeyLayout(tuple(names), tuple(actions), idle, keys)

    def choose(self, held: Sequence[str]) -> int:
        """The action of the buttons held, in the order in which they were pressed.

        Where no action is all of them, the one that is most of them, and of several the one with the newest.
        """
        fitting = [a for a, buttons in enumerate(self.actions) if buttons and buttons <= set(held)]
        if not fitting:
            return self.idle
        newest = {button: place for place, button in enumerate(held)}
        return max(fitting, key=lambda a: (len(self.actions[a]), sorted(newest[b] for b in self.actions[a])[::-1]))


NUMBER = 7
"""Choices from which on any component is taken for a number, with a button for each end and rest in the middle."""


@dataclass(frozen=True)
class JointLayout:
    """The buttons of an action of several components, each by itself: `buttons[name]` is (component, choice)."""

    names: tuple[str, ...]
    actions: ActionSpace
    idle: int
    buttons: dict[str, tuple[int, int]]
    keys: dict[str, tuple[str, ...]]

    @staticmethod
    def of(names: Sequence[str], actions: ActionSpace, numbers: Sequence[int] = ()) -> JointLayout:
        """Two buttons for a number, one for every choice but the first of anything else."""
        buttons: dict[str, tuple[int, int]] = {}
        rest = []
        for i, (name, size) in enumerate(zip(names, actions.sizes, strict=True)):
            number = i in numbers or size >= NUMBER
            rest.append(size // 2 if number else 0)
            choices = {f"{name} -": 0, f"{name} +": size - 1} if number else {f"{name} {c}": c for c in range(1, size)}
            buttons |= {button: (i, choice) for button, choice in choices.items()}
        spare = ["ArrowLeft", "ArrowRight", "ArrowDown", "ArrowUp", *(f"Key{letter}" for letter in SPARE)]
        keys: dict[str, tuple[str, ...]] = dict.fromkeys(buttons, ())
        keys |= {button: (key,) for button, key in zip(buttons, spare, strict=False)}
        return JointLayout(tuple(names), actions, int(actions.action(torch.tensor(rest))), buttons, keys)

    def choose(self, held: Sequence[str]) -> int:
        """The action of the buttons held: of two for one component the newest counts, the others rest."""
        components = self.actions.components(torch.tensor(self.idle))
        for button in held:
            component, choice = self.buttons[button]
            components[component] = choice
        return int(self.actions.action(components))


def layout_of(spaces: Spaces) -> KeyLayout | JointLayout:
    """The buttons for what an environment takes."""
    if not isinstance(spaces.actions, Discrete):
        return JointLayout.of(spaces.action_names, spaces.actions, spaces.numbers)
    return KeyLayout.of(spaces.action_names)


class HeldButtons:
    """What a person does: the buttons held, a tap that no step has seen yet, and an action asked for by name."""

    def __init__(self, layout: KeyLayout | JointLayout) -> None:
        self.layout = layout
        self.clear()

    def clear(self) -> None:
        """Let everything go."""
        self._held: list[str] = []
        self._tapped: int | None = None
        self.asked: int | None = None

    def hold(self, buttons: Sequence[str]) -> bool:
        """The buttons held now, in the order in which they were pressed; whether one is newly pressed.

        Raises PlayError for a button that the game has not.
        """
        for button in buttons:
            if button not in self.layout.keys:
                raise PlayError(f"unknown button {button!r}; nearest: {nearest(button, self.layout.keys)}")
        pressed = any(button not in self._held for button in buttons)
        self._held = list(dict.fromkeys(buttons))
        if pressed:
            self._tapped = self.layout.choose(self._held)
        return pressed

    def take(self, *, playing: bool) -> int | None:
        """The action of this step: the one asked for, else, while the person plays, that of the buttons."""
        asked, self.asked = self.asked, None
        tapped, self._tapped = self._tapped, None
        if asked is not None or not playing:
            return asked
        return self.layout.choose(self._held) if tapped is None else tapped
