"""The checkpoints of a run folder: written so that no crash and no full disk can lose the last good one.

    checkpoints/epoch-000012/manifest.json      format, epoch, size and sha256 of all that follows, and its own seal
                             state.json         numbers and names
                             agent.safetensors  one file per group of tensors
    replay/rows-000002000-000002200-<sha256>.safetensors     never changed; shared by all checkpoints that list it

A checkpoint is complete under a temporary name, and on the disk, before one rename makes it visible; only then are
older ones deleted. Replay rows are written once, when they are new. Reading trusts nothing: tensors are safetensors,
the rest JSON, nothing is ever unpickled, and what does not match its hash is not parsed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import safetensors.numpy
import safetensors.torch
import torch
from safetensors import SafetensorError

from tokendream.data.replay import ReplayBuffer
from tokendream.errors import nearest, one_line
from tokendream.runfolder.files import (
    CheckpointError,
    Damaged,
    check_plain,
    make_folder,
    parse,
    read,
    size_on_disk,
    sync,
    write,
)
from tokendream.runfolder.manifest import PLAIN_NAME, SUFFIX, Chunk, Manifest, read_manifest, write_manifest
from tokendream.runfolder.snapshot import Snapshot

CHUNK_ROWS = 2_000
"""Most replay rows in a file: 25 MB of frames, so that saving and loading never hold much more than that twice."""

_FOLDER = re.compile(r"epoch-(\d{6,12})(\.replaced)?")
_CHUNK = re.compile(r"rows-\d+-\d+-[0-9a-f]+\.safetensors")
_MALFORMED = (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError, MemoryError)


class Checkpoints:
    """The checkpoints of one run folder, of which the newest `keep` are kept. One process may save at a time."""

    def __init__(self, run_dir: Path, keep: int = 2) -> None:
        assert keep >= 1, f"keep must be at least 1, not {keep}"
        self.run_dir, self.keep = run_dir, keep
        self._home, self._rows = run_dir / "checkpoints", run_dir / "replay"
        self._damaged: set[str] = set()
        # The buffer whose rows are on disk already, where, and its `closed` at that time.
        self._saved: tuple[ReplayBuffer | None, list[Chunk], int] = (None, [], 0)

    def epochs(self) -> list[int]:
        """The epochs of which there is a checkpoint, whole or not, newest first."""
        return list(dict.fromkeys(_epoch(path) for path in self._found()))

    def save(self, epoch: int, snapshot: Snapshot, replay: ReplayBuffer | None) -> None:
        """Write a checkpoint; when this returns it is on the disk. Those of later epochs, left over from before a
        resume, are deleted with the old ones.

        Raises CheckpointError, leaving the earlier checkpoints as they were, if the disk is full or fails.
        """
        for group in snapshot.tensors:
            if not PLAIN_NAME.fullmatch(group):
                raise CheckpointError(f"a tensor group needs a plain name, not {group!r}")
        check_plain(snapshot.state, "state")
        needed = sum(t.nbytes for group in snapshot.tensors.values() for t in group.values())
        if replay is not None:
            needed += (replay.total - _end(self._known(replay), replay)) * (math.prod(replay.frame_shape) + 16)
        earlier = "; earlier checkpoints are intact" if self._found() else ""
        try:
            self._save(epoch, snapshot, replay)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._sweep()
                self._drop_rows(self._found())
            why = error.strerror or str(error)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                free = shutil.disk_usage(self.run_dir).free if self.run_dir.exists() else 0
                why = f"the disk is full: about {needed / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free"
            raise CheckpointError(f"{self._home}: cannot save epoch {epoch}, {why}{earlier}") from error

    def load(self, groups: Sequence[str] | None = None, say: Callable[[str], object] = print) -> tuple[int, Snapshot]:
        """Epoch and content of the newest whole checkpoint; `say` gets one line if a newer one is damaged.

        Only the tensor groups named are read and verified; None means all of them, and the replay rows are verified.
        Raises CheckpointError if there is none, or if one was written by another version.
        """
        reasons: dict[str, str] = {}
        for path in self._found():
            try:
                manifest = read_manifest(path, _epoch(path))
                snapshot = self._read(path, manifest, groups)
            except Damaged as error:
                reasons[path.name] = str(error)
                continue
            self._damaged = set(reasons)
            if reasons:
                say(f"{'; '.join(reasons.values())}: going on from {path.name}")
            return manifest.epoch, snapshot
        if reasons:
            raise CheckpointError(f"no checkpoint of {self.run_dir} is whole: {'; '.join(reasons.values())}")
        raise CheckpointError(f"{self.run_dir} holds no checkpoint (none at {self._home}/epoch-*)")

    def load_replay(self, epoch: int, replay: ReplayBuffer) -> None:
        """Fill an empty buffer with this epoch's rows, the newest that it can hold; later saves go on from there."""
        if replay.total > 0:
            raise ValueError(f"only an empty replay buffer can be loaded, this one has {replay.total} rows")
        found = [p for p in self._found() if _epoch(p) == epoch and p.name not in self._damaged]
        if not found:
            raise CheckpointError(f"{self.run_dir} holds no whole checkpoint of epoch {epoch}")
        chunks = read_manifest(found[0], epoch).chunks
        if chunks is None:
            raise CheckpointError(f"{found[0]} was saved without a replay buffer")
        for chunk in chunks:
            if chunk.stop <= chunks[-1].stop - replay.capacity:
                continue  # a smaller buffer than the run's: these rows would be overwritten at once
            path = self._rows / chunk.name
            data = read(path, chunk.file)
            try:
                arrays = safetensors.numpy.load(data)
                if arrays["episode_start"].shape != (chunk.stop - chunk.start,):
                    raise ValueError("another number of rows than its name says")
                replay.restore(arrays, chunk.start)
            except _MALFORMED as error:
                raise Damaged(f"{path}: {one_line(error)}") from error
        self._saved = replay, chunks, replay.closed

    def _save(self, epoch: int, snapshot: Snapshot, replay: ReplayBuffer | None) -> None:
        for folder in (self._home, self._rows):
            make_folder(folder)
        self._sweep()
        chunks = None if replay is None else self._save_rows(replay)
        target = self._home / f"epoch-{epoch:06d}"
        temporary = self._home / f".tmp-{target.name}"
        os.mkdir(temporary)
        files = {"state.json": write(temporary / "state.json", json.dumps(snapshot.state).encode())}
        for group, tensors in snapshot.tensors.items():
            # A copy each: safetensors refuses tensors that share memory, and tied weights do.
            copies = {
                k: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for k, t in tensors.items()
            }
            files[group + SUFFIX] = write(temporary / (group + SUFFIX), safetensors.torch.save(copies))
        write_manifest(temporary, Manifest(epoch, files, chunks))
        sync(temporary)
        if target.exists():  # a folder cannot be replaced in one step, so the old one stays loadable under a third name
            replaced = target.with_name(target.name + ".replaced")
            if target.name in self._damaged:
                self._discard(target)
            else:
                self._discard(replaced)
                os.replace(target, replaced)
        os.replace(temporary, target)
        sync(self._home)
        self._damaged.discard(target.name)
        if replay is not None and chunks is not None:
            self._saved = replay, chunks, replay.closed
        self._prune(target)

    def _save_rows(self, replay: ReplayBuffer) -> list[Chunk]:
        """Write the rows that no file holds yet. Returns the files that together hold all rows of the buffer."""
        chunks = self._known(replay)
        for start in range(_end(chunks, replay), replay.total, CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, replay.total)
            data = safetensors.numpy.save(replay.export(start, stop))
            chunk = Chunk(start, stop, len(data), hashlib.sha256(data).hexdigest())
            temporary = self._rows / f".tmp-{chunk.name}"
            write(temporary, data)
            os.replace(temporary, self._rows / chunk.name)
            chunks.append(chunk)
        sync(self._rows)
        return chunks

    def _known(self, replay: ReplayBuffer) -> list[Chunk]:
        """The files that hold the buffer's oldest rows without a gap, as far as they are still there."""
        owner, chunks, closed = self._saved
        if replay.closed != closed and chunks:  # the newest row of an environment that was saved may be another now
            chunks = [chunk for chunk in chunks if chunk.stop <= chunks[-1].stop - replay.envs]
        needed = (c for c in chunks if owner is replay and c.stop > replay.oldest)
        return list(itertools.takewhile(lambda c: size_on_disk(self._rows / c.name) == c.file.size, needed))

    def _found(self) -> list[Path]:
        """Folders that look like checkpoints, newest first, a replaced one after the one that replaced it."""
        if not self._home.is_dir():
            return []
        found = [p for p in self._home.iterdir() if _FOLDER.fullmatch(p.name) and p.is_dir() and not p.is_symlink()]
        return sorted(found, key=lambda p: (-_epoch(p), p.name))

    def _read(self, path: Path, manifest: Manifest, groups: Sequence[str] | None) -> Snapshot:
        stored = [name.removesuffix(SUFFIX) for name in manifest.files if name.endswith(SUFFIX)]
        for group in groups or ():
            if group not in stored:
                raise CheckpointError(f"{path} has no tensor group {group!r}; nearest: {nearest(group, stored)}")
        state = parse(path / "state.json", read(path / "state.json", manifest.files["state.json"]))
        tensors = {}
        for group in stored if groups is None else groups:
            where = path / (group + SUFFIX)
            data = read(where, manifest.files[where.name])
            try:
                tensors[group] = safetensors.torch.load(data)
            except _MALFORMED as error:
                raise Damaged(f"{where} is no safetensors file: {one_line(error)}") from error
        for chunk in (manifest.chunks or ()) if groups is None else ():
            read(self._rows / chunk.name, chunk.file)
        return Snapshot(tensors, state)

    def _prune(self, newest: Path) -> None:
        kept = {_epoch(newest): newest}
        for path in self._found():
            if _epoch(path) < _epoch(newest) and path.name not in self._damaged and len(kept) < self.keep:
                kept.setdefault(_epoch(path), path)
        for path in self._found():
            if path not in kept.values():
                self._discard(path)
        self._sweep()
        self._drop_rows(kept.values())

    def _drop_rows(self, kept: Iterable[Path]) -> None:
        """Delete the row files that none of these checkpoints lists; none at all while one of them is unreadable."""
        try:
            listed = {chunk.name for path in kept for chunk in read_manifest(path, _epoch(path)).chunks or ()}
        except CheckpointError:
            return
        for path in list(self._rows.iterdir()):
            if _CHUNK.fullmatch(path.name) and path.name not in listed:
                path.unlink()

    def _discard(self, path: Path) -> None:
        """Out of sight in one step; `_sweep` deletes it."""
        if path.exists():
            os.replace(path, path.with_name(f".tmp-gone-{path.name}"))

    def _sweep(self) -> None:
        """Delete what a save that was cut off has left behind."""
        for folder in (self._home, self._rows):
            for path in list(folder.glob(".tmp-*")):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def _epoch(path: Path) -> int:
    match = _FOLDER.fullmatch(path.name)
    assert match is not None, path
    return int(match[1])


def _end(chunks: Sequence[Chunk], replay: ReplayBuffer) -> int:
    """The first row that is not yet in a file."""
    return chunks[-1].stop if chunks else replay.oldest
