"""`tokendream bench`: a row for every phase on any processor, and what follows for a run by hand."""

import dataclasses
import json

import pytest
import torch

from tokendream.cli.main import main
from tokendream.config.presets import TINY
from tokendream.config.schedule import PARTS
from tokendream.device import Compute
from tokendream.training import timing, workload
from tokendream.training.timing import Row, Speed

NAMES = ["collect", *PARTS, "dream", "encode"]


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(timing, "MOST", 3)


def made(config=TINY):
    """A second for every env step, frame or imagined step."""
    speed = Speed(config, Compute.resolve("cpu"), True)
    sizes = {"world_model": config.world_model.segment_length, "actor_critic": config.dream.horizon}
    for name in NAMES:
        batch = getattr(config.training, name).batch if name in PARTS else 1
        each = sizes.get(name, 1)
        speed.rows.append(Row(name, batch, batch, "frames", each, [1.0 * batch * each] * 3))
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
    assert data["machine"]["precision"] in ("float32", "bfloat16")
    assert ("Not timed: bf16" in said) is (data["machine"]["precision"] == "float32")


def test_what_is_too_dear_is_timed_at_a_smaller_batch_and_said_so(few, capsys, monkeypatch):
    monkeypatch.setattr(timing, "QUICK", 0.0)
    assert main(["bench", "--preset", "tiny", "--quick"]) == 0
    said = capsys.readouterr().out
    assert all(f" {name} " in said for name in NAMES)
    for name in PARTS:
        assert f"1 (a run: {getattr(TINY.training, name).batch})" in said


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
    half = Row("tokenizer", 2, 8, "frames", 1, [3.0, 1.0, 2.0])
    assert (half.per_unit, half.full_update) == (1.0, 8.0)
    speed.rows.pop()
    assert speed.epoch(1) == {}


def test_frames_are_encoded_once_an_epoch():
    """Draws beyond number meet every row; a tokenizer that stays as it is leaves the new rows alone."""
    many = dataclasses.replace(TINY.training.world_model, updates=10**6)
    config = dataclasses.replace(TINY, training=dataclasses.replace(TINY.training, world_model=many))
    epoch = max(part.first_epoch for part in (many, config.training.actor_critic))
    rows = min(config.collect.capacity, config.collect.steps * epoch)
    assert workload.frames_encoded(config, epoch) == pytest.approx(rows)
    assert workload.frames_encoded(config, epoch, changing=False) == config.collect.steps
    assert workload.frames_encoded(config, epoch) > workload.frames_encoded(TINY, epoch)
