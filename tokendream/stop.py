"""Being stopped politely: signals and time limits become a question that the run asks itself between two updates."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143, "time limit": 0}
"""What the process returns when it was stopped, by the reason."""


class Stopped(Exception):
    """Work that is not resumed in its middle, an evaluation, was asked to stop."""


class StopRequest:
    """True once SIGINT or SIGTERM has come or the time limit, in minutes, is over."""

    def __init__(self, time_limit: float | None = None) -> None:
        self.reason: str | None = None
        self._deadline = None if time_limit is None else time.monotonic() + 60 * time_limit

    def __call__(self) -> bool:
        if self.reason is None and self._deadline is not None and time.monotonic() > self._deadline:
            self.reason = "time limit"
        return self.reason is not None

    def raise_if_set(self) -> None:
        """For work that can only be left by an exception."""
        if self():
            raise Stopped

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals while inside. A second one of the same kind acts as it always did, at once."""

        def note(number: int, frame: FrameType | None) -> None:
            self.reason = signal.Signals(number).name
            signal.signal(number, before[signal.Signals(number)])

        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
