"""The README's figures are those of the committed results."""

import re
from pathlib import Path

import pytest

from tokendream.config import Config
from tokendream.evaluate import Evaluation

ROOT = Path(__file__).parents[1]
ROWS = re.findall(r"^\|.*?\[results\]\(([^)]+)\).*$", README := (ROOT / "README.md").read_text(), re.M)


def row_of(path: str) -> str:
    (line,) = [line for line in README.splitlines() if f"({path})" in line]
    return line


@pytest.mark.parametrize("path", ROWS)
def test_the_table_says_what_the_files_say(path: str) -> None:
    result, row = Evaluation.from_json((ROOT / path).read_text()), row_of(path)
    low, high = result.interval
    assert f"mean {result.mean:,.0f} (95% interval {low:,.0f} to {high:,.0f})" in row
    assert f"{len(result.scores)} games" in row
    if "human-normalised" in row:
        assert f"human-normalised {result.human_normalised:.3f}" in row


def test_results_are_there() -> None:
    assert len(ROWS) >= 2


@pytest.mark.parametrize("final", sorted((ROOT / "results").rglob("final.json")), ids=lambda p: p.parent.name)
def test_a_run_of_the_table_beats_its_random_player(final: Path) -> None:
    """Runs that do not are kept too, outside the table."""
    config = Config.from_json((final.parent / "config.json").read_text())
    result = Evaluation.from_json(final.read_text())
    chance = Evaluation.from_json((final.parent / "random.json").read_text())
    assert result.env == chance.env == config.game
    assert len(result.scores) == len(chance.scores) == config.evaluation.episodes
    if str(final.relative_to(ROOT)) in ROWS:
        assert result.interval[0] > chance.interval[1]
