"""Lines at the width of a terminal, and of a log, which has none."""

import io
import re

import pytest
from playing import make_run

from tokendream.cli.main import main
from tokendream.play import run as play
from tokendream.reports.wrapped import wrapped

COLUMNS = 80


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("wrapped") / "run")


def terminal(monkeypatch):
    """A function that says what a terminal of `COLUMNS` was sent so far, without the codes that move its cursor."""
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    return lambda: re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue()).replace("\r", "\n").split("\n")


def test_words_stay_whole_and_what_follows_is_indented(monkeypatch):
    terminal(monkeypatch)
    line = "  error on --moving-pixels   " + "0.25 " * 20 + "x" * 100
    assert wrapped(line).startswith("  error on --moving-pixels   0.25")
    assert wrapped(line).split() == line.split()
    first, *others = wrapped(line).split("\n")
    assert len(first) <= COLUMNS
    assert all(other.startswith("    ") for other in others)


def test_a_log_has_every_line_whole():
    assert wrapped("word " * 40) == "word " * 40


@pytest.mark.parametrize(
    ("argv", "first"),
    [(["diagnose", "--steps", "60"], "Tokenizer"), (["eval", "--no-films", "--episodes", "2"], "mean")],
)
def test_no_line_is_wider_than_the_terminal(run, monkeypatch, argv, first):
    lines = terminal(monkeypatch)
    assert main([*argv, str(run), "--device", "cpu"]) == 0
    begin = next(i for i, line in enumerate(lines()) if first in line)
    said = [line for line in lines()[begin:] if str(run) not in line]  # a path stays whole
    assert any(line.startswith("    ") for line in said)
    assert max(map(len, said)) <= COLUMNS


def test_play_wraps_its_facts_and_leaves_its_addresses_whole(run, monkeypatch):
    lines = terminal(monkeypatch)

    async def stop(server, listening, player):
        listening.close()
        return 0

    monkeypatch.setattr(play, "host_until_stopped", stop)
    monkeypatch.setattr(play, "facts_line", lambda facts: "95% interval " * 20)
    monkeypatch.setattr(play.secrets, "token_urlsafe", lambda size: "x" * 80)
    assert main(["play", str(run), "--port", "0", "--token", "--device", "cpu"]) == 0
    facts = [line for line in lines() if "interval" in line]
    assert len(facts) > 1
    assert max(map(len, facts)) <= COLUMNS
    assert any(re.fullmatch(r"open +http://127\.0\.0\.1:\d+/\?token=x{80}", line) for line in lines())
