"""Float32 on a processor with AVX2 and nothing after it: what most people have, on whatever the tests run here."""

import math
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tokendream.agent.agent import Agent
from tokendream.config.config import vary
from tokendream.config.presets import TINY
from tokendream.device import Compute
from tokendream.kernels.cpu import build
from tokendream.kernels.install import install
from tokendream.training.synthetic import ACTIONS, StillEnvs, synthetic_replay
from tokendream.training.trainer import Trainer

HERE = Path(__file__).parent
LIMITS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
LIMITED = os.environ.get("ATEN_CPU_CAPABILITY") == "avx2"


def updates(*, kernels: bool) -> dict[str, float]:
    """The figures of an update of V and of M, then those of one of C, in float32."""
    torch.manual_seed(0)
    config = vary(TINY, "world_model", dropout=0.0)
    compute = Compute(torch.device("cpu"), torch.float32, kernels=kernels)
    agent = Agent.from_config(config, ACTIONS)
    install(agent, compute)
    trainer = Trainer(config, agent, StillEnvs(64), synthetic_replay(64, 64, compute.device), compute)
    return {f"{name}/{k}": v for name in ("tokenizer", "world_model", "actor_critic") for k, v in found(trainer, name)}


def found(trainer: Trainer, name: str) -> list[tuple[str, float]]:
    return [(key, float(value)) for key, value in trainer.update(name).items()]


def test_updates_in_float32_are_the_same_with_own_kernels_and_without():
    """C's too are numbers; its dreams may draw another token where two are as likely."""
    if LIMITED:
        assert torch.backends.cpu.get_cpu_capability() == "AVX2"
    plain, own = (updates(kernels=kernels) for kernels in (False, True))
    assert all(math.isfinite(value) for value in (*plain.values(), *own.values()))
    learnt = [key for key in plain if not key.startswith("actor_critic")]
    assert len(learnt) > 5
    assert {key: own[key] for key in learnt} == pytest.approx({key: plain[key] for key in learnt}, rel=1e-3, abs=1e-5)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AVX2 is of x86")
@pytest.mark.skipif(LIMITED, reason="this is the process that is limited")
def test_limited_to_avx2(tmp_path):
    """PyTorch's operators and our kernels, which are compiled without anything newer, in a process of their own."""
    compiler = tmp_path / "c++"
    real = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++") or "none"
    compiler.write_text(f'#!/usr/bin/env bash\nexec {real} "${{@/-march=native/-march=x86-64-v3}}"\n')
    compiler.chmod(0o755)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist"]
    env = {**os.environ, **LIMITS, "UNCHECKED": "1", "CXX": str(compiler), "XDG_CACHE_HOME": str(tmp_path)}
    env["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    command += ["test_fused.py", "test_instructions.py"]
    done = subprocess.run(command, cwd=HERE, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:]
    said = re.search(r"(\d+) passed", done.stdout)
    assert said is not None
    assert int(said[1]) > (30 if build.why_not() is None else 0)
