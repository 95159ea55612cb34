"""`tokendream bench`: a row for every phase on any processor, and what follows for a run by hand."""

import dataclasses
import io
import json
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tokendream.agent.agent import Agent
from tokendream.agent.collect import Collector
from tokendream.cli.main import main
from tokendream.config.config import vary
from tokendream.config.presets import REM, TINY
from tokendream.config.schedule import PARTS
from tokendream.device import Compute
from tokendream.errors import NonFiniteError
from tokendream.spaces.actions import ActionSpace
from tokendream.spaces.layout import Layout, Part
from tokendream.spaces.observations import Spaces, image_spaces
from tokendream.training import timing, workload
from tokendream.training.synthetic import synthetic_replay
from tokendream.training.timing import PhaseSpeed, Speed

NAMES = ["collect", *PARTS, "dream", "encode"]

SPACES = image_spaces(TINY.env.size, 3)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(timing, "MOST", 3)
    monkeypatch.setattr(timing, "QUICK", 1e4)  # enough of it for three, whatever else the machine does


def made(config=TINY):
    """A second for every env step, frame or imagined step."""
    speed = Speed(config, Compute.resolve("cpu"))
    sizes = {"world_model": config.world_model.segment_length, "actor_critic": config.dream.horizon}
    for name in NAMES:
        batch = getattr(config.training, name).batch if name in PARTS else 1
        each = sizes.get(name, 1)
        speed.rows.append(PhaseSpeed(name, batch, batch, "frames", each, [1.0 * batch * each] * 3, float(each)))
    return speed


def test_every_phase_has_a_row_and_the_file_holds_the_same_rows(few, tmp_path, capsys):
    out = tmp_path / "new" / "bench.json"
    assert main(["bench", "--preset", "tiny", "--quick", "--out", str(out)]) == 0
    said, data = capsys.readouterr().out, json.loads(out.read_text())
    assert [row["name"] for row in data["rows"]] == NAMES
    for row in data["rows"]:
        assert f" {row['name']} " in said
        assert 0 < row["least"] <= row["median"] <= row["most"]
        assert len(row["seconds"]) == 3
        assert row["batch"] == row["full_batch"]
        assert row["per_second"] == pytest.approx(row["batch"] * row["each"] / row["median"])
    assert sum(data["epoch_seconds"].values()) > 0 < data["run_hours"]
    assert data["peak_memory_bytes"] > 2**27
    assert data["machine"]["precision"] in ("float32", "bfloat16")
    assert ("Not timed: bf16" in said) is (data["machine"]["precision"] == "float32")


def test_what_is_too_dear_is_timed_at_a_smaller_batch_and_said_so(few, capsys, monkeypatch):
    monkeypatch.setattr(timing, "QUICK", 0.0)
    assert main(["bench", "--preset", "tiny", "--quick"]) == 0
    said = capsys.readouterr().out
    assert all(f" {name} " in said for name in NAMES)
    for name in PARTS:
        assert f"1 (a run: {getattr(TINY.training, name).batch})" in said


@pytest.mark.parametrize(("times_slower", "whole"), [(1 / 50, True), (1, False), (40, False)])
def test_the_slowest_processor_too_has_a_row_for_every_phase_in_time(monkeypatch, times_slower, whole):
    """On a clock that the work itself moves: preset rem on two AMD cores (seconds of one item, and of any call)."""
    clock, cost = [0.0], {"collect": 0.02, "tokenizer": 0.16, "world_model": 0.5, "actor_critic": 0.7}

    def work(name, batch):
        def run():
            clock[0] += times_slower * (cost.get(name, 0.3) * batch + 0.005)

        return run

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(workload, "phase", lambda name, batch, *_: work(name, batch))
    monkeypatch.setattr(workload, "dream_start", lambda batch, *_: batch)
    monkeypatch.setattr(workload, "dream", lambda batch, *_: work("dream", batch))
    monkeypatch.setattr(workload, "encode", lambda batch, *_: work("encode", batch))
    rem = dataclasses.replace(TINY, training=REM.training)
    speed = timing.measure(rem, Compute.resolve("cpu"), seconds=timing.QUICK, say=lambda _: None, spaces=SPACES)
    assert [row.name for row in speed.rows] == NAMES
    assert clock[0] < 240
    assert all(row.batch == row.full_batch for row in speed.rows) is whole
    assert all(len(row.seconds) >= (1 if times_slower > 1 else timing.LEAST) for row in speed.rows)
    assert speed.hours > 0


def test_a_phase_without_memory_is_skipped_by_name(few, capsys, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(workload, "dream_start", full)
    assert main(["bench", "--preset", "tiny", "--quick"]) == 0
    said = capsys.readouterr().out
    assert "Skipped: dream: out of memory" in said
    assert "Computed from these rows" in said  # a dream is part of an actor-critic update already


def test_an_epoch_and_a_run_by_hand():
    speed, training = made(), TINY.training
    found = speed.epoch(TINY.epochs)
    assert found["collect"] == TINY.collect.steps
    assert found["tokenizer"] == training.tokenizer.updates * training.tokenizer.batch
    M = training.world_model
    assert found["world_model"] == M.updates * M.batch * TINY.world_model.segment_length
    assert found["encode"] == workload.frames_encoded(TINY, TINY.epochs)
    assert speed.hours == pytest.approx(sum(sum(speed.epoch(e).values()) for e in range(1, TINY.epochs + 1)) / 3600)
    assert "tokenizer" not in speed.epoch(training.tokenizer.first_epoch - 1)
    part = PhaseSpeed("tokenizer", 2, 8, "frames", 1, [3.0, 1.0, 2.0], 1.5)
    assert (part.per_unit, part.full_update) == (1.0, 2.0 + 6 * 0.5)  # a call costs 1, a frame 0.5
    assert dataclasses.replace(part, alone=2.5).full_update == 2.0  # other work slowed the first: no less than timed
    assert dataclasses.replace(part, batch=1).full_update == 16.0
    speed.rows.pop()
    assert speed.epoch(1) == {}
    assert speed.to_json()["run_hours"] is None


def test_the_table_is_for_people_and_the_time_is_that_of_a_readme():
    speed, screen = made(), io.StringIO()
    tokenizer = PhaseSpeed("tokenizer", 1, 1, "frames", 1, [1 / 81_800.4], 1.0)
    slow = PhaseSpeed("encode", 1, 1, "frames", 1, [1.2344], 1.0)
    speed.rows = [row for row in speed.rows if row.name not in ("tokenizer", "encode")] + [tokenizer, slow]
    speed.show(Console(file=screen, width=150))
    said = " ".join(screen.getvalue().split())
    assert " 81,800 frames " in said
    assert " 1,234 " in said
    assert not re.search(r"\de\+|hours", said)
    assert re.search(rf" ((\d+h)?\d\dm|\d+m\d\ds|\d+s) the {TINY.epochs} epochs of a run", said)


def test_quick_takes_as_long_in_the_readme_as_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    assert "A minute or two" in capsys.readouterr().out
    assert "in a minute or two" in (Path(__file__).parents[1] / "README.md").read_text()


def test_frames_are_encoded_once_an_epoch():
    """Draws beyond number meet every row; a tokenizer that stays as it is leaves the new rows alone."""
    many = dataclasses.replace(TINY.training.world_model, updates=10**6)
    config = dataclasses.replace(TINY, training=dataclasses.replace(TINY.training, world_model=many))
    epoch = max(part.first_epoch for part in (many, config.training.actor_critic))
    rows = min(config.collect.capacity, config.collect.steps * epoch)
    assert workload.frames_encoded(config, epoch) == pytest.approx(rows)
    assert workload.frames_encoded(config, epoch, changing=False) == config.collect.steps
    assert workload.frames_encoded(config, epoch) > workload.frames_encoded(TINY, epoch)


def test_before_a_run_an_update_of_each_phase_is_known_by_hand(monkeypatch):
    """Encoding is part of M's; a short run, a GPU and a fault are left to the run."""
    longer, asked = dataclasses.replace(TINY, epochs=500), []
    monkeypatch.setattr(timing, "measure", lambda config, *_, **how: asked.append(how["seconds"]) or made(config))
    cpu, training = Compute.resolve("cpu"), longer.training
    found = timing.guess(longer, cpu, SPACES, print)
    assert (found["collect"], found["tokenizer"]) == (1, training.tokenizer.batch)
    encoded = workload.frames_encoded(longer, 500) / training.world_model.updates
    assert found["world_model"] == training.world_model.batch * longer.world_model.segment_length + encoded
    assert list(found) == ["collect", *PARTS]
    assert asked == [timing.GUESS]
    assert (
        timing.guess(TINY, cpu, SPACES, print)
        == timing.guess(longer, Compute(torch.device("cuda"), torch.float32), SPACES, print)
        == {}
    )
    monkeypatch.setattr(timing, "measure", lambda *_, **__: Speed(longer, cpu))  # no memory for any row
    assert timing.guess(longer, cpu, SPACES, print) == {}

    def fails(*_, **__):
        raise NonFiniteError("loss of the world model")

    monkeypatch.setattr(timing, "measure", fails)
    assert timing.guess(longer, cpu, SPACES, print) == {}


def test_the_seconds_of_an_update_are_those_of_what_the_environment_shows(monkeypatch):
    """A vector of five features has no frames to halve: every phase is timed on what the agent will see."""
    vector = Spaces(Layout((Part("x", "vector", (5,)),)), ActionSpace((51, 51)), ("a", "b"))
    speed = timing.measure(TINY, Compute.resolve("cpu", "float32"), seconds=0.0, say=lambda _: None, brief=True,
                           spaces=vector)  # fmt: skip
    assert [row.name for row in speed.rows] == ["collect", *PARTS, "encode"]
    asked = []
    monkeypatch.setattr(timing, "measure", lambda *_, **how: asked.append(how["spaces"]) or made())
    for env in ("any_spaces:AnyVector-v0", "Breakout"):
        assert timing.main(vary(TINY, "env", id=env), "cpu", quick=True, out=None) == 0
    assert [(spaces.observation.frame_shape, spaces.actions.n) for spaces in asked] == [
        ((20,), 51**3),
        ((3, 64, 64), 18),
    ]


def test_what_only_the_first_update_of_an_epoch_does_is_timed_once(monkeypatch):
    rewarmed = []
    monkeypatch.setattr(Collector, "rewarm", lambda self, dream: rewarmed.append(dream))
    config, cpu = vary(TINY, "collect", forget_every_epoch=True), Compute.resolve("cpu", "float32", kernels=False)
    agent = Agent.from_config(config, SPACES)
    step = workload.phase("collect", 1, config, agent, synthetic_replay(8, SPACES, cpu.device), cpu, SPACES)
    for _ in range(3):
        step()
    assert len(rewarmed) == 1


@pytest.mark.parametrize(("batch", "envs", "rows"), [(2, 1, 2), (8, 1, 8), (3, 4, 4)])
@pytest.mark.parametrize("first_epoch", [1, 5])
def test_an_update_of_what_is_fitted_takes_in_all_frames_of_its_batch(monkeypatch, batch, envs, rows, first_epoch):
    config, cpu = vary(TINY, "tokenizer", kind="dictionary"), Compute.resolve("cpu", "float32", kernels=False)
    config = vary(config, "collect", envs=envs)
    later = dataclasses.replace(config.training.tokenizer, first_epoch=first_epoch)
    config = vary(config, "training", tokenizer=later)
    agent, taken = Agent.from_config(config, SPACES), []
    fit = agent.tokenizer.fit
    changed = []

    def noted(frame):
        taken.append(len(frame))
        changed.append((found := fit(frame)).changed)
        return found

    monkeypatch.setattr(agent.tokenizer, "fit", noted)
    run = workload.phase("tokenizer", batch, config, agent, synthetic_replay(8, SPACES, cpu.device), cpu, SPACES)
    for _ in range(3):
        run()
    assert taken == [rows] * 3
    assert changed[0] > 0  # and then nothing is new, as in most of a run
    assert changed[1:] == [0, 0]
