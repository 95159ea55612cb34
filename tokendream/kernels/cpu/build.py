"""Compile the fused ops for this machine, once, and load them.

A C++ compiler is all that it needs, and some seconds of its time; the result is kept in the user's cache folder under
a name that holds everything it depends on: sources, compiler, options and the processor's features. Where there is no
compiler or it fails, there are no kernels, and nn's plain layers do the work.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from tokendream.device import cpuinfo
from tokendream.errors import one_line
from tokendream.kernels import cache

SOURCES, HEADERS = (sorted(Path(__file__).parent.glob(pattern)) for pattern in ("*.cpp", "*.h"))

OPTIONS = [
    *["-std=c++17", "-O3", "-march=native", "-shared", "-fPIC"],
    # Sums may be reordered, into vectors; NaN and infinity keep their meaning.
    *["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"],
    # Compilers would take half of a wide vector, for the sake of old processors' clocks.
    *(["-mprefer-vector-width=512"] if platform.machine() in ("x86_64", "AMD64") else []),
]


def library() -> ctypes.CDLL | None:
    """The compiled ops, or None where they cannot be had; `why_not` then says why."""
    return tried()[0]


def why_not() -> str | None:
    """Why there are no kernels; None where there are."""
    return tried()[1]


@functools.cache
def tried() -> tuple[ctypes.CDLL | None, str | None]:
    """The library, or why there is none; tried once a process."""
    try:
        return _library(), None
    except (OSError, subprocess.SubprocessError) as error:
        return None, _one_line(error)


def _library() -> ctypes.CDLL:
    """The library out of a cache folder, or compiled into the first one it can be loaded from.

    A folder may be read-only, or on a file system from which nothing is executed; a full disk may have cut a file
    short. Raises OSError, SubprocessError.
    """
    named = [os.environ.get("CXX"), *map(shutil.which, ("c++", "g++", "clang++"))]
    compiler = shlex.split(next(filter(None, named), ""))  # CXX may have arguments, as in "ccache g++"
    if not compiler:
        raise OSError("no C++ compiler (c++, g++, clang++) is installed")
    version = subprocess.run(
        [*compiler, "--version"], capture_output=True, encoding="utf-8", errors="replace", timeout=60, check=True
    ).stdout
    name = f"ops-{_digest(compiler, version)}.so"
    for folder in cache.folders():
        if (folder / name).exists():
            try:
                return ctypes.CDLL(str(folder / name))
            except OSError:
                continue
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / name
        _compile(compiler, made)
        failed: OSError | None = None
        for folder in cache.folders():
            unfinished = folder / f"{name}.{os.getpid()}"
            try:
                # Copied to a new name, then renamed: of two processes that compile at once, both win.
                shutil.copyfile(made, unfinished)
                os.replace(unfinished, folder / name)
                return ctypes.CDLL(str(folder / name))
            except OSError as error:
                unfinished.unlink(missing_ok=True)
                failed = failed or error
    raise failed or OSError("no folder to keep the compiled kernels in: set XDG_CACHE_HOME")


def _digest(compiler: list[str], version: str) -> str:
    """Of everything that the compiled library depends on."""
    info = cpuinfo()
    processor = [info.get(key, "") for key in ("model name", "flags", "Features")] if info else [platform.processor()]
    read = [path.read_text(encoding="utf-8") for path in (*SOURCES, *HEADERS)]
    whole = chr(0).join([*compiler, *OPTIONS, torch.__file__, version, *processor, *read])
    return hashlib.sha256(whole.encode()).hexdigest()[:24]


def _compile(compiler: list[str], path: Path) -> None:
    print("Compiling kernels for this processor (once, some seconds)", file=sys.stderr, flush=True)
    command = [*compiler, *OPTIONS, *map(str, SOURCES), "-o", str(path)]
    probe = [*compiler, "-fopenmp", "-fsyntax-only", "-x", "c++", os.devnull]
    if subprocess.run(probe, capture_output=True, timeout=60, check=False).returncode == 0:  # Apple's refuses it
        # torch's own OpenMP: a second one would have a second pool of threads.
        command += ["-fopenmp", *(str(p) for p in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*"))[:1])]
    subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=300, check=True)


def _one_line(error: BaseException) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        first = next((line for line in (error.stderr or "").splitlines() if "error" in line), "no message")
        return f"{error.cmd[0]} failed: {first}"
    return one_line(error)
