"""Who watches and who holds the controls. A viewer has one place for a picture: a newer one takes it, none waits.

How fast a viewer is, it says itself: it acknowledges each picture that it has drawn, and gets no further one while
`WINDOW` are on their way. So nothing piles up in sockets and tunnels either, and what a slow viewer sees is new.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from typing import Any

WINDOW = 6
"""Pictures on their way to a viewer: at 15 a second enough for 400 ms there and back."""

MOST_VIEWERS = 64

RATE, BURST = 120.0, 240.0
"""Messages a second that a viewer may send, on average and at once. One is the answer to each picture."""

GARBAGE = 20.0
"""What a message that means nothing counts."""

IDLE = 30.0
"""Seconds without a word after which the controls of whoever holds them may be taken."""


class Viewer:
    """One open page."""

    def __init__(self, number: int, now: float = 0.0) -> None:
        self.number = number
        self.sent = self.dropped = 0
        self._picture: bytes | None = None
        self._facts: dict[str, str] = {}
        self._texts: deque[str] = deque(maxlen=32)
        self._on_the_way = 0
        self._wake = asyncio.Event()
        self._allowance, self._counted = BURST, now

    def offer(self, picture: bytes) -> None:
        """A picture to send when there is room; an older one that waits is dropped."""
        self.dropped += self._picture is not None
        self._picture = picture
        self._wake.set()

    def tell(self, text: str) -> None:
        """A text to send. Of more than 32 that wait the oldest are dropped."""
        self._texts.append(text)
        self._wake.set()

    def learn(self, kind: str, text: str) -> None:
        """A text that replaces an unsent one of its kind, and that no number of others may push out."""
        self._facts[kind] = text
        self._wake.set()

    def acknowledge(self, pictures: int) -> None:
        """So many pictures have arrived: there is room for others."""
        self._on_the_way = max(0, self._on_the_way - pictures)
        self._wake.set()

    async def next(self) -> str | bytes:
        """What to send next; waits for it."""
        while True:
            if self._facts:
                return self._facts.pop(next(iter(self._facts)))
            if self._texts:
                return self._texts.popleft()
            if self._picture is not None and self._on_the_way < WINDOW:
                picture, self._picture = self._picture, None
                self._on_the_way += 1
                self.sent += 1
                return picture
            self._wake.clear()
            await self._wake.wait()

    def allows(self, cost: float, now: float) -> bool:
        """Whether one more message is within what a viewer may send."""
        self._allowance = min(BURST, self._allowance + (now - self._counted) * RATE) - cost
        self._counted = now
        return self._allowance >= 0


class Hub:
    """All viewers. Lives on the server's event loop; `publish`, `tell` and `set_up` may be called from any thread."""

    def __init__(self) -> None:
        self.viewers: dict[int, Viewer] = {}
        self.holder: Viewer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heard = 0.0
        self._number = 0
        self._latest: bytes | None = None
        self._facts = ""
        self._spreading = False

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the loop on which the viewers live."""
        self._loop = loop

    def publish(self, picture: bytes) -> None:
        """A new picture for all. Pictures are not queued on the way to the loop either."""
        self._latest = picture
        if not self._spreading and self._loop is not None:
            self._spreading = True
            self._loop.call_soon_threadsafe(self._spread)

    def tell(self, line: str, file: str = "") -> None:
        """One line for all, and the name of the file that it is about, if any."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._tell_all, json.dumps({"notice": line, "file": file}))

    def set_up(self, facts: dict[str, Any]) -> None:
        """What a page must know before the first picture."""
        self._facts = json.dumps({"setup": facts})
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._learn_all, self._facts)

    def watching(self) -> bool:
        """Whether there is any viewer."""
        return bool(self.viewers)

    def join(self) -> Viewer | None:
        """A new viewer; None where there are too many. The first one gets the controls."""
        if len(self.viewers) >= MOST_VIEWERS:
            return None
        self._number += 1
        viewer = Viewer(self._number, time.monotonic())
        self.viewers[viewer.number] = viewer
        if self._facts:
            viewer.learn("setup", self._facts)
        if self.holder is None:
            self._hand(viewer)
        else:
            self._say_who()
        if self._latest is not None:
            viewer.offer(self._latest)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """A viewer is gone; its controls are free."""
        self.viewers.pop(viewer.number, None)
        if self.holder is viewer:
            self.holder = None
        self._say_who()

    def take(self, viewer: Viewer) -> bool:
        """Give the controls to a viewer, if they are free or their holder has been silent for `IDLE` seconds."""
        held = self.holder is not None and self.holder is not viewer
        if held and time.monotonic() - self._heard < IDLE:
            return False
        self._hand(viewer)
        return True

    def release(self, viewer: Viewer) -> None:
        """The holder gives the controls back."""
        if self.holder is viewer:
            self.holder = None
            self._say_who()

    def heard(self) -> None:
        """The holder has done something."""
        self._heard = time.monotonic()

    def _hand(self, viewer: Viewer) -> None:
        self.holder = viewer
        self.heard()
        self._say_who()

    def _say_who(self) -> None:
        free = self.holder is None
        for viewer in self.viewers.values():
            you = {"controls": viewer is self.holder, "free": free, "viewers": len(self.viewers)}
            viewer.learn("you", json.dumps({"you": you}))

    def _spread(self) -> None:
        self._spreading = False
        for viewer in self.viewers.values():
            if self._latest is not None:
                viewer.offer(self._latest)

    def _learn_all(self, facts: str) -> None:
        for viewer in self.viewers.values():
            viewer.learn("setup", facts)

    def _tell_all(self, text: str) -> None:
        for viewer in self.viewers.values():
            viewer.tell(text)
