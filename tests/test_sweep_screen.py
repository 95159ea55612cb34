"""What a sweep shows on a terminal: a line for each run, however narrow, and the time that is left."""

import dataclasses
import io
import re

import pytest
from rich.console import Console
from test_sweep import CATCH, trials

from tokendream.sweep.progress import LiveDashboard, Progress, time_left


def screen_of(made, states, width, height=30):
    screen = io.StringIO()
    board = LiveDashboard(
        made, Console(file=screen, force_terminal=True, color_system=None, width=width, height=height)
    )
    board.show(states, {})
    board.close()
    return re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", screen.getvalue()).splitlines()


@pytest.mark.parametrize(("width", "shown"), [(80, "2/4 -3.5 more than 3s"), (60, "more than 3s"), (40, "")])
def test_on_a_narrow_terminal_a_run_has_one_line_and_its_game_and_seed(tmp_path, width, shown):
    made = trials(tmp_path, 3)
    line = '{"epoch": 2, "env_steps": 1240, "collect/return": -3.5, "collect/updates_per_s": 10.0, "seconds": 8.0}\n'
    for trial in made[:2]:
        (trial.run_dir / "metrics.jsonl").write_text(line)
    states = dict(zip([trial.name for trial in made], ["running", "running", "waiting"], strict=True))
    lines = screen_of(made, states, width)
    rows = [row.split() for row in lines if row.startswith(CATCH)][-3:]
    assert [row[:3] for row in rows] == [[CATCH, str(i), state] for i, state in enumerate(states.values())]
    assert " ".join(rows[0][3:]) == shown
    assert "…" not in "".join(lines)
    assert "more than 16s of training left" in " ".join(" ".join(lines).split())  # 4s, then a run of 8s and 4s


def test_what_a_sweep_has_left_by_hand():
    ran, half = Progress(trained=100.0, to_train=0.0), Progress(trained=40.0, to_train=60.0)
    states = {"a": "finished", "b": "running", "c": "running", "d": "waiting", "e": "waiting", "f": "failed"}
    at = {"a": ran, "b": half, "f": Progress(trained=9.0, to_train=1.0)}
    at |= {name: Progress() for name in "cde"}
    assert time_left(states, at) == "about 3m20s of training left"  # 60 s and 100 s, and behind each 100 s
    assert time_left(states, at | {"b": dataclasses.replace(half, bound=True)}).startswith("more than 3m20s")
    assert time_left({"b": "running"}, {"b": half}) == "about 1m00s of training left"
    assert time_left({"c": "running", "d": "waiting"}, at) == ""  # no run has come so far
    assert time_left({"a": "finished", "d": "stopped"}, at) == ""
