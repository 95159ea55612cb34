"""The checkpoint store: exact, whole or passed over, and no larger than it must be."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import (
    SHAPE,
    collect,
    damage_cut,
    damage_flip,
    damage_pickle,
    loaded,
    names,
    rows_of,
    run_of_two,
    same,
    snapshot,
)

from tokendream.data.replay import ReplayBuffer
from tokendream.runfolder import files
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.files import CheckpointError
from tokendream.runfolder.snapshot import Snapshot


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_of_two(tmp_path)


def test_everything_comes_back_to_the_bit(tmp_path):
    store, replay, twin = Checkpoints(tmp_path), ReplayBuffer(40, SHAPE), ReplayBuffer(40, SHAPE)
    for epoch in range(1, 12):  # 77 rows: the ring goes round
        store.save(epoch, snapshot(epoch), collect(replay, 7))
        collect(twin, 7)
        got, content, restored, said = loaded(tmp_path)
        assert (got, said) == (epoch, [])
        assert same(content, snapshot(epoch))
        assert (restored.total, restored.oldest) == (twin.total, twin.oldest)
        assert rows_of(restored) == rows_of(twin)
        drawn = [r.draw(9, 4, align="end", rng=np.random.default_rng(1)) for r in (restored, twin)]
        assert np.array_equal(drawn[0].row, drawn[1].row)
        steps = [r.steps(segments)._asdict() for r, segments in zip((restored, twin), drawn, strict=True)]
        assert all(torch.equal(steps[0][k], steps[1][k]) for k in steps[0])


def test_only_new_rows_are_written_and_only_listed_ones_are_kept(tmp_path, monkeypatch):
    written: list[str] = []

    def write(path: Path, data: bytes) -> files.FileHash:
        written.append(path.name)
        return files.write(path, data)

    monkeypatch.setattr("tokendream.runfolder.checkpoint.write", write)
    store, replay = Checkpoints(tmp_path, keep=3), ReplayBuffer(40, SHAPE)
    for epoch in range(1, 20):
        written.clear()
        store.save(epoch, snapshot(epoch), collect(replay, 10))
        assert [n[5:24] for n in written if "rows" in n] == [f"rows-{replay.total - 10:09d}-{replay.total:09d}"[0:19]]
        assert store.epochs() == list(range(epoch, max(0, epoch - 3), -1))
        oldest_listed = max(0, max(10, replay.total - 20) - 40)
        kept = [int(n[5:14]) for n in names(tmp_path / "replay")]
        assert kept == list(range(oldest_listed, replay.total, 10))
    written.clear()
    store.save(20, snapshot(20), replay)
    assert not any("rows" in n for n in written)


def test_rows_are_split_into_files_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr("tokendream.runfolder.checkpoint.CHUNK_ROWS", 7)
    replay = collect(ReplayBuffer(40, SHAPE), 30)
    Checkpoints(tmp_path).save(1, snapshot(1), replay)
    assert [n[5:24] for n in names(tmp_path / "replay")] == [f"{a:09d}-{min(a + 7, 30):09d}" for a in range(0, 30, 7)]
    assert rows_of(loaded(tmp_path)[2]) == rows_of(replay)


def test_evaluation_needs_only_its_group(run):
    shutil.rmtree(run / "replay")
    for path in (run / "checkpoints").glob("*/optimiser*"):
        path.write_bytes(b"")
    epoch, content = Checkpoints(run).load(groups=("agent",), say=pytest.fail)
    assert (epoch, list(content.tensors), content.state) == (12, ["agent"], snapshot(12).state)
    with pytest.raises(CheckpointError, match=r"no tensor group 'agnet'; nearest: agent"):
        Checkpoints(run).load(groups=("agnet",))
    with pytest.raises(CheckpointError, match="is whole"):
        Checkpoints(run).load()


def test_a_missing_run_is_named(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(CheckpointError, match="holds no checkpoint") as caught:
            Checkpoints(path).load()
        assert "\n" not in str(caught.value)
    store, replay = Checkpoints(tmp_path), ReplayBuffer(4, SHAPE)
    store.save(3, snapshot(3), None)
    with pytest.raises(CheckpointError, match="saved without a replay buffer"):
        store.load_replay(3, replay)
    with pytest.raises(CheckpointError, match="no whole checkpoint of epoch 4"):
        store.load_replay(4, replay)
    with pytest.raises(ValueError, match="only an empty"):
        store.load_replay(3, collect(replay, 1))
    with pytest.raises(AssertionError, match="keep"):
        Checkpoints(tmp_path, keep=0)


@pytest.mark.parametrize("damage", [damage_cut, damage_flip, damage_pickle, lambda data: b"", None])
@pytest.mark.parametrize(
    "name", ["manifest.json", "state.json", "agent.safetensors", "optimiser.a.safetensors", "none.safetensors", "rows"]
)
def test_a_damaged_newest_checkpoint_falls_back_with_one_line(run, name, damage):
    path = run / "checkpoints" / "epoch-000012" / name
    if name == "rows":
        (path,) = (run / "replay").glob("rows-000000020-*")
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    epoch, content, replay, said = loaded(run)
    assert (epoch, replay.total) == (10, 20)
    assert same(content, snapshot(10))
    (line,) = said
    assert path.name in line
    assert line.endswith("going on from epoch-000010")
    assert "\n" not in line
    (run / "checkpoints" / "epoch-000010" / "state.json").unlink()
    with pytest.raises(CheckpointError, match=rf"no checkpoint of .* is whole: .*{path.name}.*epoch-000010/state.json"):
        loaded(run)


def test_a_resumed_run_records_other_rows_under_the_same_numbers(run):
    state = run / "checkpoints" / "epoch-000012" / "state.json"
    state.write_bytes(damage_flip(state.read_bytes()))
    store, replay = Checkpoints(run), ReplayBuffer(40, SHAPE)
    epoch, _ = store.load(say=lambda line: None)
    store.load_replay(epoch, replay)
    before = {p: p.read_bytes() for p in (run / "replay").iterdir()}
    collect(replay, 5, salt=1)
    store.save(11, snapshot(11), replay)
    assert store.epochs() == [11, 10]
    assert names(run / "replay")[0][5:24] == "000000000-000000020"
    assert names(run / "replay")[1][5:24] == "000000020-000000025"
    assert len(names(run / "replay")) == 2
    collect(replay, 5, salt=1)
    store.save(12, snapshot(13), replay)  # rows 20 to 30 again, with other content
    got = loaded(run)
    assert got[0] == 12
    assert same(got[1], snapshot(13))
    assert rows_of(got[2]) == rows_of(replay)
    assert all(p.read_bytes() == data for p, data in before.items() if p.exists())
    shutil.rmtree(run / "checkpoints" / "epoch-000012")
    assert (loaded(run)[0], loaded(run)[2].total) == (11, 25)


def test_rows_of_another_buffer_or_lost_files_are_written_again(run):
    store, replay = Checkpoints(run), ReplayBuffer(40, SHAPE)
    store.load_replay(12, replay)
    next((run / "replay").glob("rows-000000020-*")).unlink()
    store.save(13, snapshot(13), replay)
    assert rows_of(loaded(run)[2]) == rows_of(replay)
    other = collect(ReplayBuffer(40, SHAPE), 35, salt=2)
    store.save(14, snapshot(14), other)
    assert rows_of(loaded(run)[2]) == rows_of(other)


@pytest.mark.parametrize("sooner", [0, 4])
def test_a_row_whose_episode_is_closed_is_written_again(run, tmp_path, sooner):
    """The file that holds it, no other; and the checkpoint before keeps its own. Also with new rows before it."""
    store, replay = Checkpoints(run), ReplayBuffer(40, SHAPE)
    store.load_replay(12, replay)
    saved, before = rows_of(replay), names(run / "replay")
    open_row = collect(replay, sooner).total - 1
    replay.close_episode()
    store.save(13, snapshot(13), replay)
    got = loaded(run)[2]
    assert rows_of(got) == rows_of(replay) != saved
    assert got.export(open_row, open_row + 1)["last"][0]
    assert len(set(names(run / "replay")) - set(before)) == 1
    older = shutil.copytree(run, tmp_path / "older")
    shutil.rmtree(older / "checkpoints" / "epoch-000013")
    assert rows_of(loaded(older)[2]) == saved
    store.save(14, snapshot(14), collect(replay, 5))
    got = loaded(run)[2]
    assert rows_of(got) == rows_of(replay)
    assert open_row + 1 in [rows[0] for rows in got.episodes()]


@pytest.mark.parametrize(
    ("state", "where"),
    [
        ({"a": {"b": [1, (2, 3)]}}, r"state\.a\.b\[1\]"),
        ({"a": {1: 2}}, r"state\.a has the key 1"),
        ({"x": np.float64(1)}, r"state\.x .* float64"),
        ({"x": torch.tensor(1)}, r"state\.x"),
    ],
)
def test_what_json_would_change_is_refused(tmp_path, state, where):
    with pytest.raises(CheckpointError, match=where):
        Checkpoints(tmp_path).save(1, Snapshot({}, state), None)
    with pytest.raises(CheckpointError, match="plain name"):
        Checkpoints(tmp_path).save(1, Snapshot({"../x": {}}, {}), None)
    assert names(tmp_path) == []
