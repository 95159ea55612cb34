"""The table of docs/tokenizers.md from results/tokenizers: a file a kind, a line a game, by compare_tokenizers.py.

python scripts/evidence.py write
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evidence_pages import ROOT, write_between

PAGE = ROOT / "docs" / "tokenizers.md"
KEPT = ROOT / "results" / "tokenizers"
KINDS = ("vq", "fsq", "dictionary", "pretrained")

Line = dict[str, Any]


def lines(kind: str) -> dict[str, Line]:
    """What was measured of a kind of tokenizer, by game."""
    found = [json.loads(line) for line in (KEPT / f"{kind}.jsonl").read_text().splitlines()]
    return {line["game"]: line for line in found}


def cells(line: Line) -> str:
    """Error on moving pixels, how many of the tokens turn where pixels move and where they stand still; seconds."""
    flicker = line["still tokens that flicker"]
    still = f", {flicker:.2g}" if flicker else ""
    turn = f"{line['moving tokens that turn']:.2f}{still}"
    return f" {line['error on moving pixels']:.2g} ({turn}) | {line['seconds']:.0f} |"


def table() -> str:
    """A row a game."""
    measured = {kind: lines(kind) for kind in KINDS}
    kinds = "".join(f" `{kind}` | s |" for kind in KINDS)
    rows = [f"| game | mean frame's error |{kinds}", "|" + "---|" * 10]
    for game in measured[KINDS[0]]:
        of_game = [measured[kind][game] for kind in KINDS]
        blind = of_game[0]["error on moving pixels"] / of_game[0]["moving pixels lost"]
        rows.append(f"| {game} | {blind:.2g} |{''.join(map(cells, of_game))}")
    return "\n".join(rows)


def page() -> dict[Path, str]:
    """The page, as it should read."""
    return {PAGE: write_between(PAGE.read_text(), "tokenizers", table())}
