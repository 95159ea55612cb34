"""Who watches, who holds the controls, and what is on its way to whom. Knows no network; lives on the server's loop.

How fast a viewer is, it says itself: it acknowledges each picture that it has drawn, and gets no further one while
`WINDOW` are on their way. So nothing piles up in sockets and tunnels either, and what a slow viewer sees is new.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

WINDOW = 6
"""Pictures on their way to a viewer: at 15 a second enough for 400 ms there and back."""

MOST_VIEWERS = 64

MOST_LINES = 32
"""Messages that wait for a viewer before it is told no further lines."""

RATE, BURST = 120.0, 240.0
"""Messages a second that a viewer may send, on average and at once. One is the answer to each picture."""

IDLE = 30.0
"""Seconds without a word after which the controls of whoever holds them may be taken."""


class Viewer:
    """One open page: `outgoing` is what the server sends to it, in order."""

    def __init__(self, now: float = 0.0) -> None:
        self.outgoing: asyncio.Queue[str] = asyncio.Queue()
        self._newest: str | None = None
        self._on_the_way = 0
        self._allowance, self._counted = BURST, now

    def show(self, picture: str) -> None:
        """Send a picture if there is room, else keep it until there is or a newer one comes."""
        self._newest = picture
        self.acknowledge(0)

    def acknowledge(self, pictures: int) -> None:
        """So many pictures have been drawn: there is room for others."""
        self._on_the_way = max(0, self._on_the_way - pictures)
        if self._newest is not None and self._on_the_way < WINDOW:
            self.outgoing.put_nowait(self._newest)
            self._newest = None
            self._on_the_way += 1

    def learn(self, **facts: Any) -> None:
        """Send what a page must know."""
        self.outgoing.put_nowait(json.dumps(facts))

    def tell(self, line: str, file: str = "") -> None:
        """Send one line, and the name of the file that it is about, unless too much waits already."""
        if self.outgoing.qsize() < MOST_LINES:
            self.learn(notice=line, file=file)

    def allows(self, cost: float, now: float) -> bool:
        """Whether one more message is within what a viewer may send."""
        self._allowance = min(BURST, self._allowance + (now - self._counted) * RATE) - cost
        self._counted = now
        return self._allowance >= 0


class Hub:
    """All viewers."""

    def __init__(self) -> None:
        self.viewers: list[Viewer] = []
        self.holder: Viewer | None = None
        self.let_go: Callable[[], object] = lambda: None
        """Called when the holder loses the controls: nobody holds its keys any more."""
        self._heard = 0.0
        self._facts: dict[str, Any] = {}
        self._latest: str | None = None

    def publish(self, picture: str) -> None:
        """A new picture for all."""
        self._latest = picture
        for viewer in self.viewers:
            viewer.show(picture)

    def tell(self, line: str, file: str = "") -> None:
        """One line for all, and the name of the file that it is about, if any."""
        for viewer in self.viewers:
            viewer.tell(line, file)

    def set_up(self, facts: dict[str, Any]) -> None:
        """What stays the same from picture to picture, when it has changed."""
        self._facts = facts
        for viewer in self.viewers:
            viewer.learn(setup=facts)

    def join(self) -> Viewer | None:
        """A new viewer; None where there are too many. The first one gets the controls."""
        if len(self.viewers) >= MOST_VIEWERS:
            return None
        viewer = Viewer(time.monotonic())
        self.viewers.append(viewer)
        if self._facts:
            viewer.learn(setup=self._facts)
        if self.holder is None:
            self.take(viewer)
        else:
            self._hand(self.holder)
        if self._latest is not None:
            viewer.show(self._latest)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """A viewer is gone; its controls are free."""
        self.viewers.remove(viewer)
        self._hand(None if self.holder is viewer else self.holder)

    def take(self, viewer: Viewer) -> bool:
        """Give the controls to a viewer, if they are free or their holder has been silent for `IDLE` seconds."""
        if self.holder not in (None, viewer) and time.monotonic() - self._heard < IDLE:
            return False
        self._heard = time.monotonic()
        self._hand(viewer)
        return True

    def use(self, viewer: Viewer) -> bool:
        """Whether a viewer may do something now: it holds the controls, or they are free and it takes them."""
        if self.holder is viewer:
            self._heard = time.monotonic()
        return self.holder is viewer or (self.holder is None and self.take(viewer))

    def release(self, viewer: Viewer) -> None:
        """The holder gives the controls back."""
        if self.holder is viewer:
            self._hand(None)

    def _hand(self, holder: Viewer | None) -> None:
        """Give the controls to a viewer or to nobody, and tell everyone how things stand."""
        if self.holder not in (None, holder):
            self.let_go()
        self.holder = holder
        for viewer in self.viewers:
            viewer.learn(you={"controls": viewer is holder, "free": holder is None, "viewers": len(self.viewers)})
