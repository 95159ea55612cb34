"""Saving a checkpoint: no crash, no full disk and no broken one can lose the checkpoints before it."""

import builtins
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import SHAPE, collect, loaded, names, rows_of, same, snapshot

from tokendream.data.replay import ReplayBuffer
from tokendream.runfolder import files
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.files import CheckpointError


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
