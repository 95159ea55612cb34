"""The command line: name a command, parse its flags, run it.

Whatever a user can get wrong ends in one line on stderr and exit code 2.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import NoReturn

from tokendream import __version__
from tokendream.cli.commands import COMMANDS, command
from tokendream.cli.output import hold_descriptors, outlive_readers
from tokendream.config.cuts import ABLATIONS, CUTS
from tokendream.config.presets import PRESETS
from tokendream.errors import ConfigError, TokendreamError, nearest, once, one_line
from tokendream.stop import Terminated


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code: 0 done, 2 bad input, 128 + a signal's number where one stopped it."""
    if sys.platform == "win32":
        return _complain("this runs on Linux (macOS is untested); on Windows use its subsystem for Linux, WSL")
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
    try:
        return _among_ranks(name, rest) if "TORCHELASTIC_RUN_ID" in os.environ else _run(name, rest)
    except KeyboardInterrupt:  # before a run listens for it, a second one that would not wait, or nothing to save
        print("tokendream: interrupted", file=sys.stderr)
        return 130
    except MemoryError as error:
        return _complain(f"not enough memory: {one_line(error)}")
    except (TokendreamError, OSError) as error:  # the rest are our bugs, which keep their traceback
        if os.environ.get("TOKENDREAM_DEBUG"):
            raise
        return _complain(_line(error))


def _run(name: str, rest: list[str]) -> int:
    from tokendream.cli import flags

    kind, run = command(name)
    with_config = {"train": flags.parse_train, "sweep": flags.parse_sweep, "envs": flags.parse_envs}
    return run(with_config[name](rest) if name in with_config else flags.parse(kind, rest, f"tokendream {name}"))


def _among_ranks(name: str, rest: list[str]) -> int:
    """The command where torchrun started this process: rank 0 alone reads its flags. Raises ConfigError for others
    than `train`.
    """
    from tokendream import ranks

    with ranks.joined():
        if ranks.number() > 0:
            from tokendream.training.follow import follow

            return follow()
        if ranks.count() > 1 and name != "train":
            raise ConfigError(f"torchrun is for train: several processes cannot share {name}")
        return _run(name, rest)


def _overview() -> str:
    lines = ["usage: tokendream COMMAND [options]", "", "REM: a token-based world model that dreams whole frames.", ""]
    lines += [f"  {name:14}{what}" for name, what in COMMANDS.items()]
    lines += ["", "tokendream COMMAND --help lists a command's options. Presets of train: " + ", ".join(PRESETS) + ";"]
    lines += ["suffixes that ablate, of any preset (rem-no-pop): " + ", ".join(ABLATIONS) + ";"]
    lines += ["suffixes that take away what a preset has (simulus-no-curiosity): " + ", ".join(CUTS) + "."]
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

    def terminate(number: int, frame: object) -> NoReturn:
        raise Terminated(128 + number)

    signal.signal(signal.SIGTERM, terminate)  # until a run listens for it
    with contextlib.suppress(OSError):  # the working folder may be gone
        if (here := os.getcwd()) not in sys.path:  # for environments beside the user, as `python -m` finds them
            sys.path.append(here)
    hold_descriptors()
    goes_on = sys.argv[1:2] in (["train"], ["sweep"])
    streams = outlive_readers(told=goes_on)
    try:
        code = main()
    except Exception:  # a bug of ours
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    lost = next((stream.lost for stream in streams if stream.lost), None)
    if code == 0 and not goes_on and isinstance(lost, BrokenPipeError):
        code = 141  # what a shell says of a process that had nobody to write to any more
    elif code == 0 and not goes_on and lost:
        once(f"standard output was lost: {lost.strerror}")
        code = 1
    if any(not thread.daemon and thread is not threading.main_thread() for thread in threading.enumerate()):
        once("the environment left a thread behind, which is not waited for")
        os._exit(code)
    sys.exit(code)
