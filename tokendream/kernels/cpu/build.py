"""Compile the passes for this machine, once, and load them.

A C++ compiler is all that it needs, and some seconds of its time; the result is kept in the user's cache folder under
a name that holds everything it depends on: sources, compiler, options and the processor's features. Where there is no
compiler or it fails, there are no kernels, and the plain passes do the work.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

SOURCES, HEADERS = (sorted(Path(__file__).parent.glob(pattern)) for pattern in ("*.cpp", "*.h"))

OPTIONS = [
    *["-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"],
    # Sums may be reordered, into vectors; NaN and infinity keep their meaning.
    *["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"],
    # Compilers would take half of a wide vector, for the sake of old processors' clocks.
    *(["-mprefer-vector-width=512"] if platform.machine() in ("x86_64", "AMD64") else []),
]


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled passes, or None where they cannot be had; `why_not` then says why."""
    try:
        try:
            return _loaded(_compiled())
        except OSError:  # a file that a full disk cut short, say: removed, hence compiled anew
            return _loaded(_compiled())
    except (OSError, subprocess.SubprocessError) as error:
        _reasons.append(_one_line(error))
        return None


def why_not() -> str | None:
    """Why there are no kernels; None where there are."""
    return None if library() else _reasons[0]


_reasons: list[str] = []


def _compiled() -> Path:
    """The shared library for this machine, compiled if it is not in the cache. Raises OSError, SubprocessError."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise OSError("no C++ compiler (c++, g++, clang++) is installed")
    # torch's own OpenMP: a second one would have a second pool of threads.
    openmp = [str(p) for p in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*"))[:1]]
    command = [compiler, *OPTIONS, *map(str, SOURCES), *openmp]
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, encoding="utf-8", errors="replace", timeout=60, check=True
    ).stdout
    read = [path.read_text(encoding="utf-8") for path in (*SOURCES, *HEADERS)]
    name = (
        f"passes-{hashlib.sha256(chr(0).join([*command, version, _processor(), *read]).encode()).hexdigest()[:24]}.so"
    )
    for folder in _folders():
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid != os.getuid():  # what others can write, others can run
                continue
            if not (folder / name).exists():
                _compile(command, folder / name)
        except PermissionError:
            continue
        return folder / name
    raise OSError("no folder to keep the compiled passes in: set XDG_CACHE_HOME")


def _loaded(path: Path) -> ctypes.CDLL:
    """The library in a file; one that cannot be loaded is removed, so that it is compiled anew."""
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _compile(command: list[str], path: Path) -> None:
    """Compile to a new name, then rename: of two processes that compile at once, both win."""
    print("Compiling kernels for this processor (once, some seconds)", file=sys.stderr, flush=True)
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".so")
    os.close(descriptor)
    try:
        subprocess.run(
            [*command, "-o", unfinished],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=300,
            check=True,
        )
        os.replace(unfinished, path)
    finally:
        Path(unfinished).unlink(missing_ok=True)


def _folders() -> list[Path]:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return [Path(cache) / "tokendream", Path(tempfile.gettempdir()) / f"tokendream-{os.getuid()}"]


def _processor() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _one_line(error: BaseException) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        first = next((line for line in (error.stderr or "").splitlines() if "error" in line), "no message")
        return f"{error.cmd[0]} failed: {first}"
    return " ".join(str(error).split())
