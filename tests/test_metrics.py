import io
import json
import math
import re

import pytest
import torch

from tokendream.config.presets import TINY
from tokendream.config.schedule import ScheduledPhase
from tokendream.reports.display import Display, Remaining, clock, display_for
from tokendream.runfolder.metrics import Means, MetricsError, RunLog, read_metrics

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")


def record(epoch, **figures):
    return {"epoch": epoch, "env_steps": 10 * epoch, "seconds": 1.0 * epoch, **figures}


def test_means_are_means_and_begin_anew():
    means = Means()
    for x in (1.0, 2.0, 6.0):
        means.add("a", {"x": torch.tensor(x), "y": torch.tensor(x * 2, requires_grad=True)})
    means.add("b", {"x": torch.tensor(5.0)})
    assert means.flush() == {"a/x": 3.0, "a/y": 6.0, "b/x": 5.0}
    assert means.flush() == {}


def test_means_go_on_to_the_bit():
    straight, cut = Means(), Means()
    figures = torch.rand(20)
    for i, x in enumerate(figures):
        straight.add("a", {"x": x})
        cut.add("a", {"x": x})
        if i == 7:
            state = json.loads(json.dumps(cut.state()))
            cut = Means()
            cut.restore(state)
    assert straight.flush() == cut.flush()


def board(run_dir):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_resumed_log_has_no_line_and_no_point_twice(tmp_path):
    log = RunLog(tmp_path)
    for epoch in (1, 2, 3, 4):
        log.append(record(epoch, loss=float(epoch)))
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 5, "loss": 0.')  # a crash while writing
    log = RunLog(tmp_path, after_epoch=2)
    assert [r["epoch"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
    for epoch in (3, 4):
        log.append(record(epoch, loss=float(-epoch)))
    log.close()
    assert [r["loss"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1.0, 2.0, -3.0, -4.0]
    assert board(tmp_path)["loss"] == [(10, 1.0), (20, 2.0), (30, -3.0), (40, -4.0)]


def test_what_is_not_finite_becomes_null(tmp_path):
    log = RunLog(tmp_path)
    log.append(record(1, bad=math.nan, huge=1e19, good=1.0))
    log.close()
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line["bad"] is line["huge"] is None
    assert line["good"] == 1.0
    RunLog(tmp_path, after_epoch=1).close()
    assert board(tmp_path)["good"] == [(10, 1.0)]
    assert "bad" not in board(tmp_path)


@pytest.mark.parametrize(
    "text", ["nonsense\n", "[1]\n", '{"epoch": "x"}\n', '{"epoch": 1}\nx\n{"epoch": 2}\n', "[" * 100000 + "\n"]
)
def test_a_damaged_file_is_refused_naming_the_line(tmp_path, text):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    with pytest.raises(MetricsError, match=r"metrics\.jsonl, line [12]:"):
        read_metrics(path)


def test_no_file_is_no_record(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


PHASES = [ScheduledPhase("collect", 1, 4, 100), ScheduledPhase("late", 3, 9, 10)]


def test_time_left_counts_the_phases_that_are_to_come():
    remaining = Remaining(PHASES, epochs=5)
    assert remaining.seconds(1) == (0, False)
    assert remaining.describe(1) == "time left unknown yet"
    remaining.learn(record(1, **{"collect/updates_per_s": 40.0}))
    assert remaining.seconds(2) == (pytest.approx(3 * 100 / 40), False)  # nobody knows yet what `late` costs
    assert remaining.describe(2) == "more than 7s left"
    remaining.learn(record(3, **{"collect/updates_per_s": 40.0, "late/updates_per_s": 1.0}))
    assert remaining.seconds(4) == (pytest.approx(1 * 100 / 40 + 2 * 10 / 1), True)
    assert remaining.describe(4) == "22s left"
    assert remaining.seconds(6) == (0, True)


def test_time_left_falls_while_a_phase_runs(monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    collect, late = PHASES
    remaining = Remaining(PHASES, epochs=4)
    remaining.learn(record(1, **{"collect/updates_per_s": 40.0}))
    remaining.follow(3, collect, 60)
    assert remaining.seconds(3) == (pytest.approx((40 + 100) / 40), False)
    remaining.follow(3, collect, 100)
    for done in range(1, 7):
        remaining.follow(3, late, done)
        now += 1.5
    assert remaining.seconds(3) == (pytest.approx(100 / 40 + (4 + 10) * 1.5), True)  # 1.5 s each, as it is seen
    assert remaining.describe(3) == "about 23s left"
    assert remaining.seconds(4) == (pytest.approx(100 / 40 + 10 * 1.5), True)
    remaining.learn(record(3, **{"late/updates_per_s": 1.0}))
    assert remaining.describe(4) == "12s left"
    assert remaining.describe(5) == "evaluation next"


def test_a_guess_gives_way_to_what_is_seen(monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    remaining = Remaining(PHASES, epochs=3)
    remaining.expect({"collect": 10.0, "late": 2.0})
    for now in (0.0, 1.0, 2.0, 3.0):
        remaining.follow(1, PHASES[0], 1 + int(now))
    assert remaining.seconds(1) == (pytest.approx(96 + 2 * 100 + 2 * 10), True)


def test_what_was_timed_before_a_run_counts_until_a_phase_ran():
    remaining = Remaining(PHASES, epochs=5)
    remaining.expect({"collect": 0.5, "late": 2.0})
    assert remaining.seconds(1) == (pytest.approx(4 * 100 * 0.5 + 3 * 10 * 2), True)
    assert remaining.describe(1) == "about 4m20s left"
    remaining.learn(record(1, **{"collect/updates_per_s": 40.0}))
    assert remaining.seconds(2) == (pytest.approx(3 * 100 / 40 + 3 * 10 * 2), True)
    assert remaining.describe(2) == "about 1m07s left"
    remaining.learn(record(3, **{"late/updates_per_s": 1.0}))
    assert remaining.describe(4) == "22s left"


def test_lines_for_logs(capsys):
    display = Display(TINY, PHASES)
    display.update(1, PHASES[0], 3)
    display.games("evaluation", 1, 2)
    display.epoch(record(1, **{"collect/updates_per_s": 40.0, "collect/return": 3.25, "world_model/accuracy": None}))
    display.say("something")
    display.close()
    out = capsys.readouterr().out
    assert "epoch 1/4, 10 env steps, return 3.25, 1s trained, more than 7s left" in out
    assert "something" in out


def test_a_log_is_not_silent_for_longer_than_a_minute(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    display = Display(TINY, PHASES)
    for now in range(1, 131):
        display.update(3, PHASES[0], now // 2)
    for now in range(131, 300):
        display.games("games", 2, 16, 100 * now)
    assert capsys.readouterr().out.splitlines() == [
        "epoch 3/4, collect 30/100, more than 5m34s left", "epoch 3/4, collect 60/100, more than 4m37s left",
        "games 2/16, 18,000 env steps", "games 2/16, 24,000 env steps",
    ]  # fmt: skip


def terminal(monkeypatch):
    """What is written where there is a terminal."""
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    return screen


def test_a_terminal_shows_a_panel_and_lines_as_they_are(monkeypatch):
    screen = terminal(monkeypatch)
    display = display_for(TINY, PHASES)
    display.say("in runs/[toy]")
    display.update(2, PHASES[0], 3)
    display.epoch(record(2, **{"collect/return": 3.25}))
    display.games("evaluation", 1, 2)
    display.close()
    shown = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", screen.getvalue())
    assert "in runs/[toy]" in shown
    assert re.search(r"epoch .* 2/4 .*left", shown)
    assert re.search(r"evaluation .* 1/2", shown)
    assert "20 env steps, 2s trained, peak memory" in shown


def test_where_nothing_trains_there_are_games_alone(monkeypatch):
    screen = terminal(monkeypatch)
    display = display_for(TINY, ())
    display.games("evaluation", 1, 2)
    display.close()
    assert re.search(r"evaluation .* 1/2", re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", screen.getvalue()))
    assert "epoch" not in screen.getvalue()
    assert "trained" not in screen.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(3.9, "3s"), (61.0, "1m01s"), (3725.0, "1h02m")])
def test_durations_as_people_read_them(seconds, text):
    assert clock(seconds) == text
