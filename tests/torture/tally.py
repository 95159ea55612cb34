"""Counts of what was tried on purpose, into the table of docs/trust.md."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tokendream.device import processor
from torture import FULL

PAGE = Path(__file__).parents[2] / "docs" / "trust.md"
BEGIN, END = "<!-- torture -->", "<!-- /torture -->"

ROWS: dict[str, tuple[int, int, str]] = {}
"""What was tried: how often, how often something was lost, and a remark."""

NOTES: list[str] = []


class Tally:
    """Called by a test with what it tried; a row of the same name is added to."""

    def __call__(self, what: str, tried: int, lost: int, remark: str = "") -> None:
        before = ROWS.get(what, (0, 0, ""))
        ROWS[what] = before[0] + int(tried), before[1] + int(lost), remark or before[2]

    def note(self, line: str) -> None:
        """A measurement that is no count."""
        NOTES.append(line)


def table(seconds: float) -> Iterator[str]:
    """The page's table, line by line."""
    device = f"{processor()}, {os.cpu_count()} cores, runs on one thread, torch {torch.__version__}"
    yield f"`make torture`, {time.strftime('%Y-%m-%d', time.gmtime())}, {device}, {seconds / 60:.0f} min:"
    yield ""
    yield "| what was done to it | tried | survived | lost | |"
    yield "|---|---|---|---|---|"
    for what, (tried, lost, remark) in ROWS.items():
        yield f"| {what} | {tried:,} | {tried - lost:,} | {lost} | {remark} |"
    tried, lost = sum(r[0] for r in ROWS.values()), sum(r[1] for r in ROWS.values())
    yield f"| **all** | {tried:,} | {tried - lost:,} | {lost} | |"
    if NOTES:
        yield ""
        yield "What changes a run, each compared with the same run on one thread:"
        yield ""
        yield from (f"- {note}" for note in NOTES)


def merge(output: dict[str, Any]) -> None:
    """Add what a worker of pytest-xdist has counted."""
    rows, notes = output.get("torture", ({}, []))
    for what, row in rows.items():
        Tally()(what, *row)
    NOTES.extend(notes)


def write(seconds: float, failed: int) -> None:
    """Rewrite the table, unless some test failed or the counts are the quick ones."""
    lines = "\n".join(table(seconds))
    print(f"\n{lines}")
    if FULL and not failed:
        head, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n{lines}\n{END}{rest.partition(END)[2]}")


def finish(session: Any, began: float) -> None:
    """What conftest calls when all tests are done; a worker hands its counts to whoever started it."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["torture"] = ROWS, NOTES
    elif FULL and (ROWS or NOTES):
        write(time.monotonic() - began, session.testsfailed)
