"""The command line: name a command, parse its flags, run it.

Whatever a user can get wrong ends in one line on stderr and exit code 2.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from tokendream import __version__
from tokendream.cli.commands import COMMANDS, Sweep, Train
from tokendream.cli.flags import parse, parse_sweep, parse_train
from tokendream.config.presets import ABLATIONS, PRESETS
from tokendream.errors import TokendreamError, nearest


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code: 0 done, 2 bad input, 130 or 143 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        print(f"tokendream {__version__}")
        return 0
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        return _complain(f"unknown command {name!r}; nearest: {nearest(name, COMMANDS)}")
    kind, run = COMMANDS[name]
    try:
        with_config = {Train: parse_train, Sweep: parse_sweep}
        return run(with_config[kind](rest) if kind in with_config else parse(kind, rest, f"tokendream {name}"))
    except KeyboardInterrupt:  # before a run listens for it, a second one that would not wait, or nothing to save
        print("tokendream: interrupted", file=sys.stderr)
        return 130
    except (TokendreamError, OSError) as error:  # the rest are our bugs, which keep their traceback
        if os.environ.get("TOKENDREAM_DEBUG"):
            raise
        return _complain(_line(error))


def _overview() -> str:
    lines = ["usage: tokendream COMMAND [options]", "", "REM: a token-based world model that dreams whole frames.", ""]
    lines += [f"  {name:14}{(kind.__doc__ or '').splitlines()[0]}" for name, (kind, _) in COMMANDS.items()]
    lines += ["", "tokendream COMMAND --help lists a command's options. Presets of train: " + ", ".join(PRESETS) + ";"]
    lines += ["behind each, an ablation (rem-no-pop): " + ", ".join(ABLATIONS) + "."]
    return "\n".join(lines)


def _line(error: ValueError | OSError) -> str:
    """What went wrong, without Python's brackets and numbers."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _complain(message: str) -> int:
    # A file may have supplied part of it, and a terminal obeys what is not printable.
    print("tokendream: " + "".join(c if c.isprintable() else "?" for c in message), file=sys.stderr)
    return 2


def entry() -> NoReturn:
    """What the console script runs."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # until a run listens for it
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # where a terminal lacks a letter, no run may end for a "±"
    code = 141  # what a shell says of a process that had nobody to write to any more
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # `tokendream --help | head`; leaving as usual would write, and complain, once more
        os._exit(code)
    sys.exit(code)
