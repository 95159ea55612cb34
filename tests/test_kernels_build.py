"""Where the compiled library comes from: made once, kept where it can be loaded from, done without where it can not."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tokendream.kernels import cache
from tokendream.kernels.cpu import build

needs_kernels = pytest.mark.skipif(build.why_not() is not None, reason=f"no kernels here: {build.why_not()}")

SAY = (
    "from tokendream.device import Compute; from tokendream.kernels.install import describe;"
    "print(describe(Compute.resolve('cpu')))"
)
COMPILING = "Compiling kernels"


def child(code: str, **env: str) -> tuple[str, str]:
    """What a fresh process prints on standard output, and on the other."""
    whole = {**os.environ, **env, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=whole, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def copier(path: Path) -> str:
    """A compiler that takes no time: it hands over the library that there is."""
    copy = f'exec cp {build.library()._name} "$2"'
    return script(path, f'while [ $# -gt 0 ]; do [ "$1" = -o ] && {copy}; shift; done')


def test_without_a_compiler_the_plain_layers_do_the_work(tmp_path):
    said, _ = child(SAY, CXX=str(tmp_path / "none"), XDG_CACHE_HOME=str(tmp_path))
    assert "no kernels (" in said
    assert str(tmp_path / "none") in said
    refuses = '[ "$1" = --version ] && exit 0; echo "x.cpp:1: error: no such target" >&2; exit 1'
    broken = script(tmp_path / "broken", refuses)
    assert "error: no such target" in child(SAY, CXX=broken, XDG_CACHE_HOME=str(tmp_path))[0]
    assert list((tmp_path / "tokendream").glob("*")) == []


@needs_kernels
def test_a_compiler_may_be_named_with_arguments(tmp_path):
    wrapper = script(tmp_path / "cache", 'shift; exec "$@"')
    env = {"XDG_CACHE_HOME": str(tmp_path), "CXX": f"{wrapper} -quiet '{copier(tmp_path / 'my c++')}'"}
    assert "own kernels" in child(SAY, **env)[0]
    assert len(list((tmp_path / "tokendream").glob("*.so"))) == 1


@needs_kernels
def test_the_compiled_library_is_made_once_and_a_damaged_one_again(tmp_path):
    env = {"XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path), "CXX": copier(tmp_path / "c++")}
    said, beside = child(SAY, **env)
    assert "own kernels" in said
    assert beside.count(COMPILING) == 1
    (made,) = (tmp_path / "tokendream").glob("*.so")
    assert COMPILING not in child(SAY, **env)[1]
    made.write_bytes(made.read_bytes()[:100])
    assert "own kernels" in child(SAY, **env)[0]
    assert made.stat().st_size > 1000


@needs_kernels
def test_where_the_cache_cannot_be_written_the_temporary_folder_keeps_it(tmp_path):
    """A home on a read-only file system, or one that is not there: here, below a file."""
    (tmp_path / "file").touch()
    cache, compiler = tmp_path / "file" / "cache", copier(tmp_path / "c++")
    env = {"XDG_CACHE_HOME": str(cache), "TMPDIR": str(tmp_path), "CXX": compiler}
    said, beside = child(SAY, **env)
    assert "own kernels" in said
    assert beside.count(COMPILING) == 1
    assert COMPILING not in child(SAY, **env)[1]


@needs_kernels
def test_where_nothing_can_be_loaded_from_the_cache_the_next_folder_is_taken(tmp_path, monkeypatch):
    """A home from which nothing is executed: compiled once, not once a folder nor once a start."""
    home, other, compiled = tmp_path / "home", tmp_path / "other", []
    for folder in (home, other):
        folder.mkdir()

    def load(path: str, real=ctypes.CDLL):
        if Path(path).is_relative_to(home):
            raise OSError(f"{path}: failed to map segment from shared object")
        return real(str(KNOWN._name))

    def compile_(_: str, path: Path) -> None:
        compiled.append(path)
        path.write_bytes(b"a library")

    KNOWN = build.library()
    monkeypatch.setattr(cache, "folders", lambda: iter([home, other]))
    monkeypatch.setattr(build, "_compile", compile_)
    monkeypatch.setattr(build.ctypes, "CDLL", load)
    for _ in range(2):
        assert build._library() is not None
    assert len(compiled) == 1
    monkeypatch.setattr(cache, "folders", lambda: iter([home]))
    with pytest.raises(OSError, match="failed to map"):
        build._library()


@needs_kernels
def test_a_failure_is_remembered(tmp_path, monkeypatch):
    tried = []

    def fails() -> None:
        tried.append(1)
        raise OSError("no space left")

    monkeypatch.setattr(build, "_library", fails)
    monkeypatch.setattr(build, "tried", build.functools.cache(build.tried.__wrapped__))
    assert [build.why_not() for _ in range(3)] == ["no space left"] * 3
    assert len(tried) == 1


@needs_kernels
def test_a_compiler_without_openmp_gives_kernels_of_one_thread(tmp_path):
    real = os.environ.get("CXX", "c++")
    refuses = 'case " $* " in *" -fopenmp "*) echo "error: unsupported option -fopenmp" >&2; exit 1;; esac'
    without = script(tmp_path / "without", f'{refuses}; exec {real} "$@" -O1')
    code = f"{SAY}; from tokendream.kernels.cpu.layers import norm; import torch; x = torch.randn(40, 8); " + (
        "w, b = torch.ones(8), torch.zeros(8); "
        "print(torch.allclose(norm(x, w, b), torch.nn.functional.layer_norm(x, (8,), w, b, 1e-6), atol=1e-5))"
    )
    said, _ = child(code, CXX=without, XDG_CACHE_HOME=str(tmp_path), OMP_NUM_THREADS="2")
    assert "own kernels" in said
    assert said.endswith("True")


def test_off_means_off():
    code = f"from tokendream.kernels.cpu import build; {SAY}".replace("'cpu'", "'cpu', kernels=False")
    assert "kernels" not in child(code + "; assert not build.tried.cache_info().currsize")[0]
