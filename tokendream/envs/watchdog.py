"""A time limit on environments that run inside our process, where there is nothing to kill but ourselves.

A thread counts its own ticks while a reset or a step is under way, so that neither a clock that jumps nor a process
that was suspended for a night looks like a hang. When the limit is over it wakes the main thread by SIGALRM, whose
handler raises EnvError out of whatever Python code the environment is in, a sleep included. What does not come back
from that (native code that waits, code that catches everything) is given GRACE seconds; then the process says so and
ends. The last checkpoint stands in either case.

Not covered: native code that keeps Python's lock, for then the thread does not run either. ALE releases it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Int, UInt8

from tokendream.envs.vector import EnvError, Envs, Transition

T = TypeVar("T")

GRACE = 5.0
"""Seconds between the polite end of a call and the end of the process."""

EXIT = 2
"""Exit code of a process that had to be ended."""

_fired: list[Watched] = []
"""Watches that have woken the main thread; at most a few in the life of a process."""


class Watched:
    """The same environments; a reset or a step that takes longer than `limit` seconds is ended.

    Only the main thread can be woken, so that a call from another thread is not watched. `_serial` counts both ends of
    a call: one is under way while it is odd.
    """

    def __init__(self, envs: Envs, name: str, limit: float) -> None:
        self.n, self.spaces = envs.n, envs.spaces
        self._envs, self._name, self._limit = envs, name, limit
        self._closed, self._thread = threading.Event(), threading.Thread(target=self._watch, daemon=True)
        self._serial, self._what, self._late = 0, "", -1

    def reset(self, seeds: Sequence[int | None]) -> UInt8[np.ndarray, " n *O"]:
        return self._call("reset", lambda: self._envs.reset(seeds))

    def step(self, actions: Int[np.ndarray, " n"]) -> Transition:
        return self._call("step", lambda: self._envs.step(actions))

    def close(self) -> None:
        """Close the environments and end the thread."""
        self._closed.set()
        self._envs.close()

    def _call(self, what: str, call: Callable[[], T]) -> T:
        if threading.current_thread() is not threading.main_thread():
            return call()
        if what == "reset" or self._serial == 0:  # an environment may have taken the signal for itself
            signal.signal(signal.SIGALRM, _on_alarm)
        if self._thread.ident is None:
            self._thread.start()
        self._what = what
        self._serial += 1
        try:
            return call()
        finally:
            self._serial += 1

    def _watch(self) -> None:
        tick = min(1.0, self._limit / 4)
        seen, ticks = 0, 0
        while not self._closed.wait(tick):
            if self._serial % 2 == 0 or self._serial != seen:
                seen, ticks = self._serial, 0
                continue
            ticks += 1
            waited = ticks * tick
            if waited >= self._limit + GRACE:
                line = f"tokendream: {self._message(waited)} and cannot be interrupted; the last checkpoint stands\n"
                os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, line.encode())
                os._exit(EXIT)
            elif waited >= self._limit > waited - tick:
                self._late = seen
                _fired.append(self)
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    def raise_if_late(self) -> None:
        """Raise EnvError if the call that was found late is still under way."""
        if self._serial == self._late:
            raise EnvError(self._message(self._limit))

    def _message(self, seconds: float) -> str:
        return f"{self._name}: its {self._what} did not answer within {seconds:g} s (env.step_timeout)"


def _on_alarm(number: int, frame: object) -> None:
    while _fired:
        _fired.pop().raise_if_late()
