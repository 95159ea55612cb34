"""The manifest of a checkpoint: which files belong to it, by size and hash, under a seal of its own.

The seal shows that a manifest is whole, not that it is ours: whatever it says is checked before it is followed.
Every name in it is a plain one or made from numbers, so that no manifest leads out of its run folder.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tokendream.errors import one_line
from tokendream.runfolder.files import CheckpointError, Damaged, FileHash, parse, read, seal_of, write

FORMAT = 1
"""Version of the checkpoint's layout. How the manifest is sealed stays the same in all versions."""

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,100}")
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Chunk:
    """Replay rows [start, stop) in one file. It is named by its content, so a resumed run overwrites no other's."""

    start: int
    stop: int
    size: int
    sha256: str

    @property
    def name(self) -> str:
        return f"rows-{self.start:09d}-{self.stop:09d}-{self.sha256[:16]}{SUFFIX}"

    @property
    def file(self) -> FileHash:
        return FileHash(self.size, self.sha256)


@dataclass(frozen=True)
class Manifest:
    """What belongs to a checkpoint; `chunks` is None if it was saved without a replay buffer."""

    epoch: int
    files: dict[str, FileHash]
    chunks: list[Chunk] | None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a checkpoint whose other files are written already."""
    record = {
        "format": FORMAT,
        "epoch": manifest.epoch,
        "files": {name: asdict(file) for name, file in manifest.files.items()},
        "replay": None if manifest.chunks is None else [asdict(chunk) for chunk in manifest.chunks],
    }
    write(folder / "manifest.json", json.dumps({**record, "seal": seal_of(record)}, indent=1).encode())


def read_manifest(folder: Path, epoch: int) -> Manifest:
    """The manifest of this epoch's checkpoint. Raises Damaged, or CheckpointError if another version wrote it."""
    where = folder / "manifest.json"
    record = parse(where, read(where))
    seal, version = record.pop("seal", None), record.get("format")
    if seal != seal_of(record):
        raise Damaged(f"{where} is damaged: it does not match its seal")
    if version != FORMAT:
        age = "an older" if type(version) is int and version < FORMAT else "a newer"
        raise CheckpointError(f"{where} has format {one_line(version)}, {age} one than {FORMAT}, which is read here")
    try:
        files = {name: FileHash(**file) for name, file in record["files"].items()}
        chunks = None if record["replay"] is None else [Chunk(**chunk) for chunk in record["replay"]]
        manifest = Manifest(record["epoch"], files, chunks)
    except (KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{where} is no manifest: {one_line(error)}") from error
    for problem in _problems(manifest, epoch):
        raise Damaged(f"{where} is no manifest: {one_line(problem)}")
    return manifest


def _problems(manifest: Manifest, epoch: int) -> Iterator[str]:
    """What a manifest must not say: its seal only shows that it is whole, not that it is ours."""
    if type(manifest.epoch) is not int or manifest.epoch != epoch:
        yield f"its folder is of epoch {epoch}, not {manifest.epoch!r}"
    if "state.json" not in manifest.files:
        yield "it lists no state.json"
    for name, file in manifest.files.items():
        if not PLAIN_NAME.fullmatch(name) or not (name == "state.json" or name.endswith(SUFFIX)):
            yield f"it lists a file {name!r}"
        yield from file.problems()
    chunks = manifest.chunks or []
    for chunk in chunks:
        yield from chunk.file.problems()
        if not (type(chunk.start) is int and type(chunk.stop) is int and 0 <= chunk.start < chunk.stop < 2**50):
            yield f"it lists replay rows {chunk.start!r} to {chunk.stop!r}"
    for chunk, follower in itertools.pairwise(chunks):
        if chunk.stop != follower.start:
            yield f"its replay rows {chunk.stop} to {follower.start} are missing"
