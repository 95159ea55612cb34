"""Files that survive a crash when written, and are not trusted when read.

Writing waits until the bytes are on the disk, and `replace` then renames. Reading takes regular files only,
checks size and hash before anything is parsed, and turns whatever may be wrong into one line.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokendream.errors import ConfigError, TokendreamError, one_line

UNHASHED_LIMIT = 16 * 2**20
"""Most bytes read from a file of which no hash is known."""

CANNOT_FLUSH = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF}
"""What file systems say that cannot be asked to wait, for folders above all (CIFS, shares of virtual machines, FUSE):
nothing more can be done there. Any other error means that the disk has not taken it."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


class CheckpointError(TokendreamError):
    """A checkpoint that cannot be written or read; one line that says which file and why."""


class Damaged(CheckpointError):
    """This checkpoint cannot be used, an older one may."""


@dataclass(frozen=True)
class FileHash:
    """What a file must be to be read."""

    size: int
    sha256: str

    def problems(self) -> Iterator[str]:
        """What is impossible about values that came from a file."""
        if type(self.size) is not int or not 0 <= self.size < 2**50:
            yield f"it lists a file size {self.size!r}"
        if type(self.sha256) is not str or not _SHA256.fullmatch(self.sha256):
            yield f"it lists a hash {self.sha256!r}"


def write(path: Path, data: bytes) -> FileHash:
    """Write a file and wait until its content is on the disk; its name is only after `sync` of the folder."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        _flush_to_disk(file.fileno())
    return FileHash(len(data), hashlib.sha256(data).hexdigest())


def replace_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, over the one that may be there; makes its folder."""
    replace(path, text.encode(errors="replace"))  # the name of a folder may be no text


def replace(path: Path, data: bytes) -> None:
    """The same for any content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".part")
    write(half, data)
    os.replace(half, path)


def sync(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        _flush_to_disk(handle)
    finally:
        os.close(handle)


def _flush_to_disk(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in CANNOT_FLUSH:
            raise


def make_folder(path: Path) -> None:
    """Create a folder and its parents, durably."""
    if not path.is_dir():
        if path.parent != path:
            make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def make_place(flag: str, path: Path | None) -> None:
    """Make the folder of a file to be written, if one was asked for. Raises ConfigError where it cannot be written."""
    if path is not None:
        if path.is_dir():
            raise ConfigError(f"{flag} must be a file, and {path} is a folder")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise ConfigError(f"{flag} cannot be written in {path.parent}: {error.strerror}") from None


def size_on_disk(path: Path) -> int:
    """The size of a regular file; -1 if there is none."""
    try:
        info = path.lstat()
    except OSError:
        return -1
    return info.st_size if stat.S_ISREG(info.st_mode) else -1


def read(path: Path, expected: FileHash | None = None, limit: int = UNHASHED_LIMIT) -> bytes:
    """A file's content if it is what was expected. Raises Damaged, before reading if the size is wrong.

    Only a regular file will do: a link could lead out of the run folder, a pipe would be waited on for ever.
    """
    size, limit = size_on_disk(path), limit if expected is None else expected.size
    if size < 0:
        raise Damaged(f"{path} is missing" if not os.path.lexists(path) else f"{path} is no regular file")
    if size > limit or (expected is not None and size < limit):
        raise Damaged(f"{path} is damaged: it has {size} bytes, not {'at most ' if expected is None else ''}{limit}")
    try:
        with open(path, "rb") as file:
            data = file.read(size)
    except (OSError, MemoryError) as error:
        raise Damaged(f"{path} cannot be read: {one_line(error)}") from error
    if expected is not None and hashlib.sha256(data).hexdigest() != expected.sha256:
        raise Damaged(f"{path} is damaged: its hash is not the one in the manifest")
    return data


def read_text(path: Path, limit: int = UNHASHED_LIMIT) -> str:
    """A text file of ours. Raises Damaged for what is no regular file or larger than the limit, 16 MiB."""
    return read(path, limit=limit).decode("utf-8", errors="replace")


def refuse_links(folder: Path) -> None:
    """Raise ConfigError if a run folder holds a link: what is read or written under its name would lie elsewhere."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent) / name
            if path.is_symlink():
                raise ConfigError(f"{path} is a link; what a run folder holds must lie in it")


def parse(path: Path, data: bytes) -> dict[str, Any]:
    """The JSON object in `data`, which came from `path`."""
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is no JSON: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise Damaged(f"{path} holds no JSON object, but {one_line(value)}")
    return value


def seal_of(record: dict[str, Any]) -> str:
    """The hash under which a JSON object is known to be whole; spaces and order do not count."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def check_plain(value: object, where: str) -> None:
    """Raise CheckpointError, saying where, for what would not come back from JSON as it went in."""
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise CheckpointError(f"{where} has the key {key!r}; JSON has only strings as keys")
            check_plain(item, f"{where}.{key}")
    elif type(value) is list:
        for i, item in enumerate(value):
            check_plain(item, f"{where}[{i}]")
    elif value is not None and type(value) not in (bool, int, float, str):
        raise CheckpointError(f"{where} must be plain data for JSON, not {type(value).__name__} {one_line(value)}")
