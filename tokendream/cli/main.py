"""The command line: name a command, parse its flags, run it.

Whatever a user can get wrong ends in one line on stderr and exit code 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from tokendream import __version__
from tokendream.cli.commands import COMMANDS, Sweep, Train
from tokendream.cli.flags import parse, parse_sweep, parse_train
from tokendream.plain import nearest
from tokendream.presets import PRESETS


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code: 0 done, 2 bad input, 130 or 143 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        print(f"tokendream {__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        return _complain(f"unknown command {name!r}; nearest: {nearest(name, COMMANDS)}")
    kind, run = COMMANDS[name]
    try:
        with_config = {Train: parse_train, Sweep: parse_sweep}
        return run(with_config[kind](rest) if kind in with_config else parse(kind, rest, f"tokendream {name}"))
    except (ValueError, OSError) as error:
        # Every error a caller, a config or a file can cause is a ValueError or an OSError; the rest are our bugs.
        if os.environ.get("TOKENDREAM_DEBUG"):
            raise
        return _complain(" ".join(str(error).split()) or type(error).__name__)


def _overview() -> str:
    lines = ["usage: tokendream COMMAND [options]", "", "REM: a token-based world model that dreams whole frames.", ""]
    lines += [f"  {name:10}{(kind.__doc__ or '').splitlines()[0]}" for name, (kind, _) in COMMANDS.items()]
    lines += ["", "tokendream COMMAND --help lists a command's options. Presets of train: " + ", ".join(PRESETS) + "."]
    return "\n".join(lines)


def _complain(message: str) -> int:
    print(f"tokendream: {message}", file=sys.stderr)
    return 2


def entry() -> NoReturn:
    """What the console script runs."""
    sys.exit(main())
