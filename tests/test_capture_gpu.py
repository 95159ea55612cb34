"""Captured, deterministic and compiled updates on a real GPU; the last on a CPU too."""

import copy
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from tokendream.agent.agent import Agent
from tokendream.config.presets import TINY
from tokendream.config.schedule import PARTS
from tokendream.device import Compute
from tokendream.kernels.cuda_graph import WARM_UP, Captured
from tokendream.training.synthetic import ACTIONS, StillEnvs, synthetic_replay
from tokendream.training.trainer import Trainer

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and GPU_TESTS=1")


@pytest.fixture(autouse=True)
def _whole(monkeypatch):
    """What a test breaks is whole again after it."""
    monkeypatch.setattr(Captured, "broken", "")


def trainer(compute: Compute) -> Trainer:
    torch.manual_seed(0)
    agent = Agent.from_config(TINY, ACTIONS)
    return Trainer(TINY, agent, StillEnvs(64), synthetic_replay(64, 64, compute.device), compute)


def run_phase(compute: Compute, part: str, updates: int) -> tuple[list[dict[str, float]], Trainer]:
    made = trainer(compute)
    figures = [{k: float(v) for k, v in made.update(part).items()} for _ in range(updates)]
    return figures, made


@pytest.fixture
def repeatable():
    """Deterministic kernels, else two plain runs differ too; of what has none torch warns (see `compute._switch`)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*determinis.*")
        Compute.resolve("cuda", deterministic=True)
        yield
        Compute.resolve("cuda")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.usefixtures("repeatable")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("part", PARTS)
def test_twenty_captured_updates_are_the_plain_ones(part, dtype):
    device = torch.device("cuda")
    ran, made = run_phase(Compute(device, dtype), part, 20)
    plain, other = run_phase(Compute(device, dtype, capture=False), part, 20)
    assert made.captured[part] == "captured"
    bound = 1e-5 if dtype is torch.float32 else 2e-2
    for a, b in zip(ran, plain, strict=True):
        assert a == pytest.approx(b, rel=bound, abs=bound)
    assert torch.equal(made.shared.dreaming.get_state(), other.shared.dreaming.get_state())


@pytest.mark.gpu
@needs_gpu
def test_random_numbers_advance_on_a_gpu_as_without_a_graph():
    states = []
    for on in (True, False):
        made = trainer(Compute(torch.device("cuda"), torch.bfloat16, capture=on))
        torch.cuda.manual_seed(3)
        for name in made.phases:
            for _ in range(8):
                made.update(name)
        cuda = torch.cuda.default_generators[torch.cuda.current_device()]
        generators = (made.shared.dreaming, made.shared.acting, cuda)
        assert made.captured == dict.fromkeys(["collect", *PARTS], "captured" if on else "switched off")
        states.append([g.get_state() for g in generators])
    assert all(map(torch.equal, *states))


@pytest.mark.gpu
@needs_gpu
def test_going_on_from_a_snapshot_replays_the_restored_weights():
    """Restoring replaces the optimiser's moments, which a graph of before would go on writing into."""
    compute = Compute(torch.device("cuda"), torch.float32)
    made = trainer(compute)
    for _ in range(8):
        made.update("world_model")
    snapshot = copy.deepcopy(made.snapshot())
    straight = [float(made.update("world_model")["next_frame"]) for _ in range(6)]
    made.restore(snapshot)
    assert [float(made.update("world_model")["next_frame"]) for _ in range(6)] == pytest.approx(straight, rel=1e-5)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.usefixtures("repeatable")
def test_a_deterministic_run_repeats_itself_to_the_bit():
    compute = Compute(torch.device("cuda"), torch.bfloat16)
    runs = [run_phase(compute, part, 6)[0] for part in PARTS for _ in range(2)]
    assert all(a == b for a, b in zip(runs[::2], runs[1::2], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])])
def test_compiled_updates_are_the_plain_ones(device):
    """Gradients of updates one after the other, so that a wrong one would show in all that follow."""
    program = Path(__file__).with_name("compiled_updates.py")
    env = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    ended = subprocess.run([sys.executable, program, device], env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "without torch.compile" not in ended.stderr
    parts = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [p["part"] for p in parts] == ["tokenizer", "world_model"]
    for found in parts:
        assert found["compiled"] == pytest.approx(found["plain"], rel=1e-3)
        assert found["compiled"] != found["plain"]  # it did compile
        assert found["status"] == ("captured" if device == "cuda" else "no graphs on a cpu")


@pytest.mark.gpu
@needs_gpu
def test_the_seconds_of_an_epoch_on_a_gpu_are_those_of_the_clock():
    """Although the host hands updates over and goes on."""
    made = trainer(Compute(torch.device("cuda"), torch.float32))
    for _ in range(4):
        before, began = made.seconds, time.perf_counter()
        assert made.run_epoch()
        torch.cuda.synchronize()
        wall = time.perf_counter() - began
        made.close_epoch()
        assert 0.7 * wall < made.seconds - before <= wall


@pytest.mark.gpu
@needs_gpu
def test_a_failed_capture_leaves_a_gpu_that_still_draws():
    device = torch.device("cuda")
    generator = torch.Generator(device).manual_seed(0)

    def allocates_on_the_host(x: torch.Tensor) -> torch.Tensor:
        y = x + torch.rand(2, device=device, generator=generator) + torch.rand(2, device=device)
        if torch.cuda.is_current_stream_capturing():
            y.cpu()
        return y

    earlier, captured = (
        Captured(run, Compute(device, torch.float32), [generator], "it")
        for run in (lambda x: x + torch.rand(2, device=device, generator=generator), allocates_on_the_host)
    )
    for _ in range(WARM_UP + 1):
        earlier(torch.ones(2))
    for _ in range(WARM_UP):
        captured(torch.ones(2))
    with pytest.warns(RuntimeWarning, match="it runs without a CUDA graph"):
        captured(torch.ones(2))
    assert captured(torch.ones(2)).isfinite().all()
    assert not torch.equal(earlier(torch.ones(2)).clone(), earlier(torch.ones(2)))
    torch.cuda.empty_cache()
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
