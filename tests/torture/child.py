"""A real `tokendream` process that is cut at a chosen place: `python child.py PLACE NUMBER DELAY SIGNAL ARGV...`.

The NUMBER-th time that PLACE is reached, a thread waits DELAY milliseconds and sends SIGNAL to the process: with a
delay the cut falls wherever the process is by then, without one it falls exactly there. PLACE - cuts nowhere.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLACES = {
    "start": ("tokendream.training.run", "make"),
    "collect": ("tokendream.training.phases", "Collector.step"),
    "update": ("tokendream.training.update", "apply"),
    "dream": ("tokendream.training.phases", "dream_loss"),
    "evaluation": ("tokendream.agent.agent", "AgentPolicy.__call__"),
    "checkpoint file": ("tokendream.runfolder.checkpoint", "write"),
    "checkpoint name": ("tokendream.runfolder.checkpoint", "sync"),
    "old checkpoint": ("tokendream.runfolder.checkpoint", "Checkpoints._prune"),
    "metrics line": ("tokendream.runfolder.metrics", "RunLog.append"),
    "restore": ("tokendream.training.trainer", "restore_optimiser"),
    "film": ("tokendream.reports.media", "enlarge"),
    "report": ("tokendream.training.results", "write_report"),
}
"""Where a run can be cut: the function that is about to be called."""


def cut_at(place: str, number: int, delay: float, signum: int) -> None:
    """Arrange for this process to get the signal."""
    import importlib

    module, _, path = (*PLACES[place][:1], "", PLACES[place][1])
    owner: Any = importlib.import_module(module)
    *way, name = path.split(".")
    for part in way:
        owner = getattr(owner, part)
    original: Callable[..., Any] = getattr(owner, name)
    reached = 0

    def guarded(*args: Any, **kwargs: Any) -> Any:
        nonlocal reached
        reached += 1
        if reached == number:
            if delay:
                threading.Thread(target=_send, args=(delay, signum), daemon=True).start()
            else:
                os.kill(os.getpid(), signum)
        return original(*args, **kwargs)

    setattr(owner, name, guarded)


def _send(delay: float, signum: int) -> None:
    time.sleep(delay / 1000)
    os.kill(os.getpid(), signum)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])
    from tokendream.cli.main import entry

    place, number, delay, signum, *argv = sys.argv[1:]
    if place != "-":
        cut_at(place, int(number), float(delay), int(signum))
    if not os.environ.get("TORTURE"):
        from tokendream.reports import run_page

        run_page.svg = lambda *_: "<svg></svg>"  # nobody looks at its charts
    sys.argv = ["tokendream", *argv]
    entry()
