"""A folder that belongs to one process at a time, and who that process is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from tokendream.errors import ConfigError, once

NAME = ".lock"


@contextlib.contextmanager
def hold(folder: Path, complaint: str) -> Iterator[None]:
    """Hold a folder; ConfigError with `complaint` if another process does. The lock ends with the process, however
    that ends. Where the file system has no locks, one line says so and the folder is taken."""
    # A link in a folder from somebody else must not lead us to another file.
    with os.fdopen(
        os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "r+", encoding="utf-8"
    ) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise ConfigError(complaint) from None
        except OSError as error:  # Lustre without -o flock, some NFS and FUSE mounts
            once(f"{folder} cannot be locked ({error.strerror}): let no other process work in it")
        file.truncate(0)
        file.write(f"{os.getpid()} {socket.gethostname()}")
        file.flush()
        yield


def holder(folder: Path) -> int | None:
    """Process id of who holds a folder, None if nobody does; 0 for one on another machine, or not known yet.

    Asking takes the lock for an instant, so a process that starts at that very moment may be refused. Where the file
    system has no locks, nobody is known to hold anything.
    """
    try:
        with (folder / NAME).open(encoding="utf-8", errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                pid, _, host = file.read(300).partition(" ")
                return int(pid) if pid.isdigit() and host == socket.gethostname() else 0
    except OSError:  # no such file, or no locks
        pass
    return None
