"""What is written for AMX tiles, on processors without: tiles made of AVX-512 take their place (`fake_tiles.h`)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tokendream.device import cpuinfo

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.skipif("avx512_bf16" not in cpuinfo().get("flags", ""), reason="no AVX-512 with bf16 here")
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here")
def test_what_is_made_of_tiles_passes_the_tests_of_the_fused_layers(tmp_path):
    compiler = tmp_path / "cxx"
    compiler.write_text(f'#!/bin/sh\nexec g++ -D__AMX_BF16__=1 -include "{HERE / "fake_tiles.h"}" "$@"\n')
    compiler.chmod(0o755)
    env = {**os.environ, "CXX": str(compiler), "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(HERE.parent)}
    there = "from tokendream.kernels.cpu import tiles; assert tiles.available()"
    subprocess.run([sys.executable, "-c", there], env=env, check=True)
    tests = [str(HERE / f"test_{name}.py") for name in ("fused", "fused_pop")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    ended = subprocess.run(command, cwd=HERE.parent, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-1000:]
