"""The checkpoint store: exact, never lost to a crash or a full disk, and safe to point at anything."""

import builtins
import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tokendream.data.replay import ReplayBuffer
from tokendream.runfolder import files
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.files import CheckpointError, seal_of
from tokendream.runfolder.snapshot import Snapshot, capture_random, optimiser_tensors, restore_optimiser, restore_random

SHAPE = (3, 2, 2)


def collect(replay: ReplayBuffer, rows: int, salt: int = 0) -> ReplayBuffer:
    """Add rows whose content follows from their number and a salt."""
    for _ in range(rows):
        row = replay.total
        frame = np.random.default_rng((row, salt)).integers(0, 256, SHAPE, dtype=np.uint8)
        replay.add(frame, row % 5, float(row), row % 7 == 6, row % 7 == 6)
    return replay


def snapshot(epoch: int) -> Snapshot:
    """Different for every epoch; tied, strided, empty and 0-d tensors, several types."""
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(epoch))
    agent = {"weight": weight, "tied": weight, "strided": weight.T, "half": weight.bfloat16(), "empty": weight[:0]}
    return Snapshot(
        {"agent": agent, "optimiser.a": {"0.step": torch.tensor(float(epoch))}, "none": {}},
        {
            "epoch": epoch,
            "third": 1 / 3,
            "tiny": 5e-324,
            "big": 2**127 + epoch,
            "text": "ε\n",
            "list": [None, {}],
        },
    )


def same(a: Snapshot, b: Snapshot) -> bool:
    """Equality to the bit, types included."""
    return (
        a.tensors.keys() == b.tensors.keys()
        and all(
            x.keys() == y.keys() and all(torch.equal(x[k], y[k]) and x[k].dtype == y[k].dtype for k in x)
            for x, y in zip(a.tensors.values(), (b.tensors[k] for k in a.tensors), strict=True)
        )
        and repr(a.state) == repr(b.state)
    )


def rows_of(replay: ReplayBuffer) -> dict[str, bytes]:
    return {k: v.tobytes() for k, v in replay.export(replay.oldest, replay.total).items()}


def loaded(run: Path, capacity: int = 40) -> tuple[int, Snapshot, ReplayBuffer, list[str]]:
    said: list[str] = []
    store, replay = Checkpoints(run), ReplayBuffer(capacity, SHAPE)
    epoch, content = store.load(say=said.append)
    store.load_replay(epoch, replay)
    return epoch, content, replay, said


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with checkpoints of epochs 10 (20 rows) and 12 (30 rows)."""
    store, replay = Checkpoints(tmp_path / "run"), ReplayBuffer(40, SHAPE)
    for epoch, rows in ((10, 20), (12, 10)):
        store.save(epoch, snapshot(epoch), collect(replay, rows))
    return tmp_path / "run"


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
    with pytest.raises(ValueError, match="keep"):
        Checkpoints(tmp_path, keep=0)


def damage_cut(data: bytes) -> bytes:
    return data[:-1]


def damage_flip(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


def damage_pickle(data: bytes) -> bytes:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return (os.abort, ())

    return pickle.dumps(Bomb())


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
    assert open_row + 1 in [start for start, _ in got.episodes()]


class Killed(BaseException):
    """Stands for kill -9: nothing may be tidied up after it."""


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def broken() -> OSError:
    return OSError(errno.EIO, "Input/output error")


class Faults:
    """Raises at the n-th write operation: half a file is written, a file is not synced, a name is not changed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, error: Callable[[], BaseException]) -> None:
        self.at, self.error, self.count, self.log = at, error, 0, []
        for module, name in ((os, "replace"), (os, "fsync"), (os, "mkdir"), (os, "unlink"), (os, "rmdir")):
            monkeypatch.setattr(module, name, self.guard(name, getattr(module, name)))
        opened = builtins.open

        def half(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            file = opened(path, mode, *args, **kwargs)
            if mode != "wb":
                return file
            write = file.write

            class Half:
                def __enter__(self) -> Any:
                    return self

                def __exit__(self, *_: object) -> None:
                    file.close()

                flush, fileno = file.flush, file.fileno

            def guarded(data: bytes) -> int:
                write(data[: len(data) // 2])
                self.tick("write", path)
                return write(data[len(data) // 2 :])

            Half.write = staticmethod(guarded)
            return Half()

        monkeypatch.setattr(builtins, "open", half)

    def guard(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self.tick(name, *args)
            return original(*args, **kwargs)

        return guarded

    def tick(self, *what: Any) -> None:
        self.count += 1
        self.log.append(what)
        # A disk that is full stays full, except for what is deleted.
        again = self.error is full and self.at < self.count and what[0] in ("write", "fsync", "mkdir")
        if self.count == self.at or again:
            raise self.error()


def attempt(tmp_path: Path, at: int, error: Callable[[], BaseException], again: bool) -> BaseException | None:
    """Saves of which the last, a new epoch or the same `again`, fails at its n-th write. Returns how."""
    store, replay = Checkpoints(tmp_path, keep=1), ReplayBuffer(25, SHAPE)
    store.save(1, snapshot(1), collect(replay, 20))
    before = rows_of(replay)
    collect(replay, 20, salt=3)
    raised: BaseException | None = None
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch, at, error)
        try:
            store.save(1 if again else 2, snapshot(2), replay)
        except (Killed, CheckpointError) as caught:
            raised = caught
    epoch, content, restored, said = loaded(tmp_path, 25)
    assert said == []
    assert epoch in ((1,) if again else (1, 2))
    new = same(content, snapshot(2))
    assert new or same(content, snapshot(1))
    assert rows_of(restored) == (rows_of(replay) if new else before)
    assert new or raised
    if isinstance(raised, CheckpointError):
        assert not list(tmp_path.glob("*/.tmp*"))
    # The next save works, by the same process or another, and leaves nothing of the failed one.
    if at % 2:
        store, replay = Checkpoints(tmp_path, keep=1), restored
        store._saved = (None, [], 0)
    store.save(3, snapshot(3), collect(replay, 3, salt=4))
    assert names(tmp_path / "checkpoints") == ["epoch-000003"]
    listed = json.loads((tmp_path / "checkpoints/epoch-000003/manifest.json").read_text())["replay"]
    assert len(names(tmp_path / "replay")) == len(listed)
    assert rows_of(loaded(tmp_path, 25)[2]) == rows_of(replay)
    assert (raised is None) == (faults.count < at)
    return raised


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("error", [Killed, full, broken])
def test_a_save_that_fails_anywhere_loses_nothing(tmp_path, error, again):
    for at in range(1, 100):
        raised = attempt(tmp_path / str(at), at, error, again)
        if raised is None:
            break
        if isinstance(raised, CheckpointError):
            assert "earlier checkpoints are intact" in str(raised)
            assert str(tmp_path) in str(raised)
            assert ("MB are needed" in str(raised)) == (error is full)
    assert 25 < at < 99  # every write, sync, rename and deletion was tried


def test_nothing_is_visible_before_it_is_on_the_disk(tmp_path, monkeypatch):
    replay = collect(ReplayBuffer(40, SHAPE), 20)
    faults = Faults(monkeypatch, -1, Killed)
    Checkpoints(tmp_path / "run").save(1, snapshot(1), replay)
    log = [what[0] for what in faults.log]
    writes = [i for i, what in enumerate(log) if what == "write"]
    assert len(writes) == 1 + 5  # rows; state, three groups, manifest
    assert all(log[i + 1] == "fsync" for i in writes)
    renames = [i for i, what in enumerate(log) if what == "replace"]
    assert all(log[i - 1] == "fsync" and log[i + 1] == "fsync" for i in renames)
    last_write, last_rename = writes[-1], renames[-1]
    assert log[last_write:] == ["write", "fsync", "fsync", "replace", "fsync"]
    assert Path(faults.log[last_rename][2]).name == "epoch-000001"


def test_a_disk_that_is_really_full(tmp_path):
    small = Path("/dev/full")
    if not small.exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(OSError, match="No space"):
        files.write(small, b"x" * 10)


def reseal(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest as someone would who knows how it is sealed."""
    record = json.loads(path.read_text())
    del record["seal"]
    change(record)
    path.write_text(json.dumps({**record, "seal": seal_of(record)}))


@pytest.mark.parametrize(("version", "age"), [(0, "an older"), (2, "a newer"), ("1", "a newer"), (None, "a newer")])
def test_other_versions_are_named_and_not_passed_over(run, version, age):
    reseal(run / "checkpoints/epoch-000012/manifest.json", lambda record: record.update(format=version))
    with pytest.raises(CheckpointError, match=f"has format {version}, {age} one than 1"):
        Checkpoints(run).load()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["files"].update({"../../../secret.safetensors": m["files"]["agent.safetensors"]}),
        lambda m: m["files"].update({"/etc/passwd": m["files"]["agent.safetensors"]}),
        lambda m: m["files"].update({"..": m["files"]["agent.safetensors"]}),
        lambda m: m["files"].update({"a\\b.safetensors": m["files"]["agent.safetensors"]}),
        lambda m: m["files"].update({"nul\0.safetensors": m["files"]["agent.safetensors"]}),
        lambda m: m["files"].pop("state.json"),
        lambda m: m["files"]["state.json"].update(size=-1),
        lambda m: m["files"]["state.json"].update(size=2**80),
        lambda m: m["files"]["state.json"].update(size=1e300),
        lambda m: m["files"]["state.json"].update(sha256="../" * 21 + "x"),
        lambda m: m["files"]["state.json"].update(path="/etc/passwd"),
        lambda m: m.update(files=[1, 2]),
        lambda m: m.update(epoch=11),
        lambda m: m.update(epoch="12"),
        lambda m: m.update(replay=7),
        lambda m: m["replay"][0].update(name="../x"),
        lambda m: m["replay"][0].update(sha256="../../../x"),
        lambda m: m["replay"][0].update(start="../../x"),
        lambda m: m["replay"][0].update(stop=2**70),
        lambda m: m["replay"][1].update(start=21),
        lambda m: m["replay"].reverse(),
        lambda m: m["replay"].append(m["replay"][0]),
        lambda m: m.pop("replay"),
    ],
)
def test_a_manifest_that_lies_is_passed_over(run, change):
    (run.parent / "secret.safetensors").write_bytes((run / "checkpoints/epoch-000012/agent.safetensors").read_bytes())
    reseal(run / "checkpoints/epoch-000012/manifest.json", change)
    epoch, *_, said = loaded(run)
    assert (epoch, len(said)) == (10, 1)
    assert "manifest" in said[0]


def disguise_link(path: Path) -> None:
    path.rename(path.parents[2] / "elsewhere")
    path.symlink_to(path.parents[2] / "elsewhere")


def disguise_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def disguise_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("disguise", [disguise_link, disguise_pipe, disguise_folder])
@pytest.mark.parametrize("name", ["manifest.json", "state.json", "agent.safetensors"])
def test_only_regular_files_are_read(run, name, disguise):
    disguise(run / "checkpoints/epoch-000012" / name)
    epoch, *_, said = loaded(run)
    assert epoch == 10
    assert "no regular file" in said[0]


def forge(run: Path, name: str, data: bytes) -> None:
    """Replace a file and list it properly."""
    folder = run / "checkpoints" / "epoch-000012"
    (folder / name).write_bytes(data)
    entry = vars(files.write(folder / name, data))
    reseal(folder / "manifest.json", lambda record: record["files"].update({name: entry}))


def header(text: str, payload: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text.encode() + payload


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("agent.safetensors", damage_pickle(b"")),
        ("agent.safetensors", b""),
        ("agent.safetensors", (2**63).to_bytes(8, "little")),
        ("agent.safetensors", header('{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,4]}}', b"0000")),
        ("agent.safetensors", header('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,99999999999]}}', b"0000")),
        ("agent.safetensors", header('{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}')),
        ("agent.safetensors", header('{"a":{"dtype":"Q7","shape":[1],"data_offsets":[0,4]}}', b"0000")),
        ("agent.safetensors", header('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', b"0000")),
        ("agent.safetensors", header('{"a":' * 1000)),
        ("state.json", damage_pickle(b"")),
        ("state.json", b"[]"),
        ("state.json", b"\xff\xfe{}"),
        ("state.json", b"[" * 200_000),
        ("state.json", b'{"a": ' + b"9" * 10_000 + b"}"),
    ],
)
def test_files_that_are_listed_but_lie_are_passed_over(run, name, data):
    forge(run, name, data)
    epoch, *_, said = loaded(run)
    assert (epoch, len(said)) == (10, 1)
    assert name in said[0]


def test_row_files_that_lie_are_refused(run):
    def relist(data: bytes) -> None:
        record = vars(files.write(run / "replay" / "new", data)) | {"start": 20, "stop": 30}
        os.replace(run / "replay/new", run / f"replay/rows-000000020-000000030-{record['sha256'][:16]}.safetensors")
        reseal(run / "checkpoints/epoch-000012/manifest.json", lambda m: m["replay"].__setitem__(1, record))

    good = safetensors.torch.load(next((run / "replay").glob("rows-000000020-*")).read_bytes())
    for bad in (
        damage_pickle(b""),
        safetensors.torch.save({}),
        safetensors.torch.save({k: v[:9] for k, v in good.items()}),
        safetensors.torch.save({**good, "frame": good["frame"][:, :2].contiguous()}),
        safetensors.torch.save({**good, "reward": good["reward"] * float("nan")}),
        safetensors.torch.save({**good, "episode_start": good["episode_start"] * 0 - 2**63}),
        safetensors.torch.save({**good, "frame": good["frame"].bfloat16()}),
    ):
        relist(bad)
        store = Checkpoints(run)
        with pytest.raises(CheckpointError, match="rows-000000020"):
            store.load_replay(12, ReplayBuffer(40, SHAPE))


def test_mutated_files_load_or_raise_a_checkpoint_error(run, rng):
    """300 mutations, half of them resealed so that what lies behind the hashes is reached as well."""
    files = [p for p in run.rglob("*") if p.is_file() and "000010" not in str(p)]
    original = {p: p.read_bytes() for p in files}
    outcomes = {"loaded": 0, "fell back": 0, "refused": 0}
    for i in range(300):
        path = files[rng.integers(len(files))]
        data = bytearray(original[path])
        for _ in range(rng.integers(1, 4)):
            a, b = sorted(rng.integers(0, len(data) + 1, 2))
            kind = rng.integers(4)
            if kind == 0 and a < len(data):
                data[a] = rng.integers(256)
            elif kind == 1:
                del data[a : min(b, a + 8)]
            elif kind == 2:
                data[a:a] = data[a:b]
            else:
                data[a:a] = rng.choice([b"9" * 30, b"-", b'"', b"[", b"null", b"{}", b"../", b"1e999"])
        path.write_bytes(data)
        if i % 2 and path.parent.name == "epoch-000012":
            try:
                if path.name == "manifest.json":
                    reseal(path, lambda record: None)
                else:
                    forge(run, path.name, bytes(data))
            except (ValueError, KeyError, AttributeError, TypeError):
                pass
        try:
            epoch, *_ = loaded(run)
            outcomes["loaded" if epoch == 12 else "fell back"] += 1
        except CheckpointError:
            outcomes["refused"] += 1
        for changed, before in original.items():
            changed.write_bytes(before)
    assert sum(outcomes.values()) == 300
    assert outcomes["fell back"] > 150
    assert loaded(run)[0] == 12


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


def test_random_states_go_on_where_they_were(tmp_path):
    generators = {"a": np.random.default_rng(1), "b": torch.Generator().manual_seed(2)}
    generators["a"].random(3)
    generators["a"].integers(0, 9, 3, dtype=np.int32)  # leaves half a word in the generator

    def draws() -> list[float]:
        return [
            *generators["a"].integers(0, 2**31, 5, dtype=np.int32).tolist(),
            *torch.rand(5, generator=generators["b"]).tolist(),
            *torch.randn(3).tolist(),
        ]

    tensors, state = capture_random(generators)
    Checkpoints(tmp_path).save(1, Snapshot({"random": tensors}, {"random": state}), None)
    expected = draws()
    _, content = Checkpoints(tmp_path).load()
    restore_random(generators, content.tensors["random"], content.state["random"])
    assert draws() == expected


@pytest.mark.parametrize(
    "change",
    [
        {"generator.b": torch.zeros(5056, dtype=torch.uint8)},
        {"generator.b": torch.zeros(7, dtype=torch.uint8)},
        {"generator.b": torch.zeros(5056)},
        {"torch.cpu": torch.zeros(3, dtype=torch.uint8)},
        {"a": {}},
        {"a": 3},
        {"a": {"bit_generator": "MT19937"}},
        {"a": {"bit_generator": "PCG64", "state": {"state": "x", "inc": 2**300}, "has_uint32": 0, "uinteger": 0}},
        {"a": {"bit_generator": "PCG64", "state": {"state": -1, "inc": 2**300}, "has_uint32": 0, "uinteger": 0}},
    ],
)
def test_random_states_that_do_not_fit_are_refused(change):
    generators = {"a": np.random.default_rng(1), "b": torch.Generator().manual_seed(2)}
    tensors, state = capture_random(generators)
    for key, value in change.items():
        (tensors if key in tensors else state)[key] = value
    with pytest.raises(CheckpointError, match="random state"):
        restore_random(generators, tensors, state)
    with pytest.raises(CheckpointError, match="'c' is missing"):
        restore_random({"c": np.random.default_rng()}, tensors, state)


def test_a_random_state_of_another_kind_of_device_seeds_this_one():
    """A run that began on a GPU goes on here, as far as its random numbers are concerned always in the same way."""
    generators = {"b": torch.Generator().manual_seed(2)}
    tensors, state = capture_random(generators)
    draws = []
    for last in (0, 0, 1):
        tensors["generator.b"] = torch.tensor([7] * 15 + [last], dtype=torch.uint8)  # of a CUDA device
        restore_random(generators, tensors, state)
        draws.append(torch.rand(3, generator=generators["b"]).tolist())
    assert draws[0] == draws[1] != draws[2]


def trained(steps: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    matrices, vectors = ([p for p in module.parameters() if (p.ndim > 1) == m] for m in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=1e-2)
    for i in range(steps):
        step(module, optimiser, i)
    return module, optimiser


def step(module: torch.nn.Module, optimiser: torch.optim.Optimizer, i: int) -> None:
    optimiser.zero_grad()
    module(torch.randn(5, 3, generator=torch.Generator().manual_seed(i))).square().sum().backward()
    optimiser.step()


@pytest.mark.parametrize("steps", [0, 4])
def test_optimisers_go_on_exactly(tmp_path, steps):
    module, optimiser = trained(steps)
    tensors = {"agent": module.state_dict(), "optimiser": optimiser_tensors(optimiser)}
    Checkpoints(tmp_path).save(1, Snapshot(dict(tensors), {}), None)
    copy, resumed = trained(2)  # already used: all it remembers must go
    _, content = Checkpoints(tmp_path).load()
    copy.load_state_dict(content.tensors["agent"])
    restore_optimiser(resumed, content.tensors["optimiser"])
    for i in range(steps, steps + 3):
        step(module, optimiser, i)
        step(copy, resumed, i)
    for a, b in zip(module.parameters(), copy.parameters(), strict=True):
        assert torch.equal(a, b)
    a, b = optimiser_tensors(optimiser), optimiser_tensors(resumed)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"4.step": torch.zeros(())}, "of 4 parameters does not remember '4.step'"),
        ({"x.step": torch.zeros(())}, "does not remember 'x.step'"),
        ({"²": torch.zeros(())}, "does not remember"),
        ({"9" * 5000: torch.zeros(())}, "does not remember"),
        ({"0.hook": torch.zeros(())}, "does not remember"),
        ({"0.exp_avg": torch.zeros(4, 4)}, "must be floating point"),
        ({"0.exp_avg": torch.zeros(4, 3, dtype=torch.int64)}, "must be floating point"),
        ({"0.exp_avg": None}, "lacks exp_avg"),
    ],
)
def test_optimiser_states_that_do_not_fit_are_refused(change, message):
    _, optimiser = trained(1)
    tensors = {k: v for k, v in {**optimiser_tensors(optimiser), **change}.items() if v is not None}
    with pytest.raises(CheckpointError, match=message):
        restore_optimiser(optimiser, tensors)


def test_nothing_in_the_package_unpickles():
    package = Path(files.__file__).parent
    for path in package.rglob("*.py"):
        text = path.read_text()
        for word in ("import pickle", " torch.load(", "allow_pickle=True", "weights_only=False", "joblib", "marshal"):
            assert word not in text, f"{path.name}: {word}"
