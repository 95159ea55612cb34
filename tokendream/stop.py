"""Being stopped politely: signals and time limits become a question that the run asks itself between two updates."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = [
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")  # a lost terminal, a scheduler's warning
    if name in signal.Signals.__members__
]
"""What asks work to save and stop."""

EXIT_CODES = {number.name: 128 + number for number in SIGNALS} | {"time limit": 0}
"""What the process returns when it was stopped, by the reason."""

PATIENCE = 5.0
"""Seconds in which a second signal changes nothing: schedulers send two, 17 ms apart. A second Ctrl-C is meant."""


class Stopped(Exception):
    """Work that is not resumed in its middle, an evaluation, was asked to stop."""


class Terminated(SystemExit):
    """SIGTERM while nothing listens: unlike an environment's own sys.exit(), it ends the process."""


class StopRequest:
    """True once one of SIGNALS has come or the time limit, in minutes, is over."""

    def __init__(self, time_limit: float | None = None) -> None:
        self.reason: str | None = None
        self._deadline = None if time_limit is None else time.monotonic() + 60 * time_limit
        self._before: dict[signal.Signals, Any] = {}
        self._came: dict[int, float] = {}
        self.continued = 0
        """How often the process was suspended and went on: Ctrl-Z and `fg`, a scheduler that makes room."""

    def __call__(self) -> bool:
        for number in self._before:  # an environment may have taken them for itself
            if signal.getsignal(number) != self._note:
                signal.signal(number, self._note)
        if self.reason is None and self._deadline is not None and time.monotonic() > self._deadline:
            self.reason = "time limit"
        return self.reason is not None

    def raise_if_set(self) -> None:
        """For work that can only be left by an exception."""
        if self():
            raise Stopped

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Catch the signals while inside; SIGHUP only where it is not ignored, as nohup has it.

        A second one of the same kind acts as it always did, at once; but see PATIENCE.
        """
        heard = [n for n in SIGNALS if n.name != "SIGHUP" or signal.getsignal(n) != signal.SIG_IGN]
        heard += [signal.SIGCONT] if hasattr(signal, "SIGCONT") else []
        # None: a handler that was not set from Python, which cannot be put back.
        self._before = {number: signal.getsignal(number) or signal.SIG_DFL for number in heard}
        for number in self._before:
            signal.signal(number, self._note)
        try:
            yield self
        finally:
            before, self._before = self._before, {}
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        name = signal.Signals(number).name
        if name == "SIGCONT":
            self.continued += 1
            return
        self.reason = self.reason or name
        first = self._came.setdefault(number, now)
        if first != now and (name == "SIGINT" or now - first > PATIENCE):
            signal.signal(number, self._before[signal.Signals(number)])
            signal.raise_signal(number)
