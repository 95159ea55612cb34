"""Standard output and error that outlive their readers: what cannot be written is dropped, and the work goes on.

A pipe's reader may leave (`| head`, a pager, a lost ssh session), a disk behind `> log` may be full, a service manager
may have closed the streams. None of that is worth a training run.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys


class LossyStream(io.FileIO):
    """A file descriptor to write to, whatever comes of it. `lost` is the first error; `told` says it on stderr."""

    def __init__(self, descriptor: int, *, told: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.lost: OSError | None = None
        self._told = told

    def write(self, data) -> int:  # type: ignore[no-untyped-def]  # any buffer
        while True:
            try:
                written = super().write(data)
            except OSError as error:
                if self.lost is None:
                    self.lost = error
                    if self._told:
                        line = f"tokendream: standard output is lost from here on ({error.strerror}); the run goes on"
                        print(line, file=sys.stderr, flush=True)
                return len(data)
            if written is not None:
                return written
            select.select([], [self], [])  # a pipe that does not block, and is full


class Open(io.TextIOWrapper):
    """Text that stays open whoever closes it, an environment for example."""

    def close(self) -> None:
        self.flush()


def outlive_readers(*, told: bool) -> list[LossyStream]:
    """Put such streams in the place of standard output and error; letters that a terminal lacks become "?".

    `told`: say in one line, on standard error, when standard output is lost.
    """
    replaced = []
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before the start
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):
                stream.flush()
            raw = LossyStream(stream.fileno(), told=told and name == "stdout")
            replaced.append(raw)
            stream = Open(
                io.BufferedWriter(raw),
                encoding=stream.encoding,
                errors="replace",
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
        setattr(sys, name, stream)
    return replaced


def hold_descriptors() -> None:
    """Open the standard descriptors that are closed, so that no file of ours gets a number that others print to."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
