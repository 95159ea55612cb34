import contextlib
import copy
import dataclasses
import gc
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from tokendream.agent.agent import Agent
from tokendream.config.parts import PhaseConfig
from tokendream.config.presets import TINY
from tokendream.config.schedule import PARTS
from tokendream.device import Compute
from tokendream.kernels import cuda_graph
from tokendream.kernels.cuda_graph import WARM_UP, Captured
from tokendream.nn.losses import Losses
from tokendream.training.synthetic import ACTIONS, StillEnvs, synthetic_replay
from tokendream.training.trainer import Trainer
from tokendream.training.update import Update, adamw, apply

CPU = Compute(torch.device("cpu"), torch.float32)
PHASE = PhaseConfig(1, 1, 4, 1e-2, 0.01, 1.0)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and GPU_TESTS=1")


def trainer(compute: Compute) -> Trainer:
    torch.manual_seed(0)
    agent = Agent.from_config(TINY, ACTIONS)
    return Trainer(TINY, agent, StillEnvs(64), synthetic_replay(64, 64, compute.device), compute)


def noisy(generator: torch.Generator) -> tuple[nn.Linear, torch.optim.AdamW, Update]:
    """A small update that draws from a generator of its own and from torch's."""
    torch.manual_seed(0)
    module = nn.Linear(3, 1)
    optimiser = adamw(module, PHASE)

    def loss(x: torch.Tensor) -> Losses:
        return Losses({"square": (module(x) + torch.rand(4, 1, generator=generator) + torch.rand(())).square().mean()})

    return module, optimiser, Update(loss, module, optimiser, PHASE.clip, CPU)


def test_a_function_of_inputs_is_the_update_written_out():
    x = torch.randn(7, 4, 3)
    one, two = (torch.Generator().manual_seed(1) for _ in range(2))
    module, _, update = noisy(one)
    captured, seen = Captured(update, CPU, [one]), []
    assert captured.plain == "no graphs on a cpu"
    for batch in x:
        losses, norm = captured(batch)
        seen += [losses.total, norm]
    after = [*module.parameters(), torch.get_rng_state(), one.get_state()]

    other, optimiser, written = noisy(two)
    expected = []
    for batch in x:
        losses = written._loss(batch)
        norm = apply(losses, optimiser, PHASE.clip)
        expected += [losses.total.detach(), norm]
    assert all(map(torch.equal, seen, expected))
    assert all(map(torch.equal, after, [*other.parameters(), torch.get_rng_state(), two.get_state()]))


class FakeGraph:
    """A graph that records by remembering the function, and replays by calling it."""

    fails = ""
    running: "FakeGraph | None" = None

    def __init__(self):
        self.work, self.generators = [], []

    def register_generator_state(self, generator):
        warnings.warn("no longer needed", DeprecationWarning, stacklevel=1)
        self.generators.append(generator)

    def replay(self):
        for work in self.work:
            work()


@contextlib.contextmanager
def recording(graph, *_):
    assert not gc.isenabled()  # what it frees would spoil a capture
    before = torch.get_rng_state()
    FakeGraph.running = graph
    try:
        yield
        if FakeGraph.fails:
            raise RuntimeError(FakeGraph.fails)
    finally:
        FakeGraph.running = None
        torch.set_rng_state(before)  # a capture draws no numbers


class FakeGenerator(torch.Generator):
    """Counts how often it was put back."""

    restored = 0

    def clone_state(self):
        return self.get_state()

    def graphsafe_set_state(self, state):
        self.restored += 1


@pytest.fixture(autouse=True)
def _whole(monkeypatch):
    """What a test breaks is whole again after it."""
    monkeypatch.setattr(Captured, "broken", "")


@pytest.fixture
def pretend(monkeypatch):
    """The calls of torch.cuda that `Captured` makes, played on the CPU."""

    class Stream:
        def wait_stream(self, other):
            assert isinstance(other, Stream)

    @contextlib.contextmanager
    def anything(*_):
        yield

    for name, value in {
        "CUDAGraph": FakeGraph,
        "graph": recording,
        "Stream": Stream,
        "stream": anything,
        "device": anything,
        "current_stream": Stream,
        "current_device": lambda: 0,
        "graph_pool_handle": lambda: (0, 1),
        "default_generators": [FakeGenerator()],
        "set_stream": lambda stream: None,
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": lambda mode: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.setattr(torch._C, name, lambda *_: None, raising=False)
    monkeypatch.setattr(FakeGraph, "fails", "")

    def captured(run, generators=()) -> Captured:
        made = Captured(run, CPU, generators, "phase x")
        made._plain = ""
        return made

    return captured


class Counter:
    """A function that a fake graph can record: it writes into the same output each time."""

    def __init__(self):
        self.called, self.out = 0, torch.zeros(())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.called += 1

        def work() -> None:
            self.out.copy_(x.sum())

        if FakeGraph.running is None:
            work()
        else:
            FakeGraph.running.work.append(work)
        return self.out


def test_calls_warm_up_then_replay_what_was_recorded_with_new_inputs(pretend):
    generator, run = FakeGenerator(), Counter()
    captured = pretend(run, [generator])
    for i in range(WARM_UP + 3):
        assert float(captured(torch.full((2,), float(i)))) == 2 * i
    assert run.called == WARM_UP + 1
    assert captured._graph.generators == [generator]
    assert generator.restored == 0
    assert captured.status == "captured"


def test_inputs_that_do_not_fit_are_run_as_they_are(pretend):
    run = Counter()
    captured = pretend(run)
    for _ in range(WARM_UP + 2):
        captured(torch.ones(2))
    assert float(captured(torch.ones(3))) == 3
    assert float(captured(torch.ones(2))) == 2
    assert run.called == WARM_UP + 2


def test_forgetting_records_anew(pretend):
    run = Counter()
    captured = pretend(run)
    for _ in range(2):
        for _ in range(WARM_UP + 2):
            captured(torch.ones(2))
        captured.forget()
    assert run.called == 2 * (WARM_UP + 1)


def test_a_capture_that_fails_says_why_and_goes_on_without(pretend, monkeypatch):
    monkeypatch.setattr(FakeGraph, "fails", "operation not permitted when stream is capturing")
    generator, run = FakeGenerator(), Counter()
    captured = pretend(run, [generator])
    for _ in range(WARM_UP):
        captured(torch.ones(2))
    with pytest.warns(RuntimeWarning, match="phase x runs without a CUDA graph: operation not permitted"):
        captured(torch.ones(2))
    assert generator.restored == 1
    assert gc.isenabled()
    assert float(captured(torch.ones(2))) == 2
    assert captured.plain == "operation not permitted when stream is capturing"


def test_after_a_capture_that_failed_no_graph_is_trusted(pretend, monkeypatch):
    run = Counter()
    earlier, later = pretend(run), pretend(Counter())
    for _ in range(WARM_UP + 1):
        earlier(torch.ones(2))
    assert earlier.status == "captured"
    monkeypatch.setattr(FakeGraph, "fails", "out of memory")
    for _ in range(WARM_UP):
        later(torch.ones(2))
    with pytest.warns(RuntimeWarning, match="phase x runs without a CUDA graph: out of memory"):
        later(torch.ones(2))
    before = run.called
    assert float(earlier(torch.full((2,), 3.0))) == 6
    assert run.called == before + 1  # not replayed
    assert earlier.status == later.status == "out of memory"


def test_a_call_that_waits_for_the_device_is_not_captured(pretend):
    def waits(x: torch.Tensor) -> torch.Tensor:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return x

    captured = pretend(waits)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for _ in range(WARM_UP):
            captured(torch.ones(2))
    assert [str(w.message).split(" at ")[0] for w in heard] == [
        "phase x runs without a CUDA graph: the host waits for the device"
    ]
    assert __file__ in captured.plain
    assert captured._graph is None


def test_capture_can_be_switched_off():
    off = dataclasses.replace(CPU, capture=False)
    assert trainer(CPU).captured == dict.fromkeys(["collect", *PARTS], "no graphs on a cpu")
    assert Captured(Counter(), off).plain
    assert Compute.of(dataclasses.replace(TINY, capture=False)).capture is False


def test_nothing_of_torch_s_capture_api_is_missing():
    """The attributes that `capture` names exist in this version of torch, GPU or not (of torch._C, only with CUDA)."""
    for name in ("CUDAGraph", "graph", "graph_pool_handle", "Stream", "stream", "Event", "set_sync_debug_mode"):
        assert hasattr(torch.cuda, name)
    assert all(hasattr(torch.Generator, name) for name in ("clone_state", "graphsafe_set_state"))
    assert cuda_graph.WARM_UP >= 3  # torch asks for as many before a capture


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
    assert torch.equal(made._dreaming.get_state(), other._dreaming.get_state())


@pytest.mark.gpu
@needs_gpu
def test_random_numbers_advance_on_a_gpu_as_without_a_graph():
    states = []
    for on in (True, False):
        made = trainer(Compute(torch.device("cuda"), torch.bfloat16, capture=on))
        torch.cuda.manual_seed(3)
        for phase in made.phases:
            for _ in range(8):
                made.update(phase.name)
        generators = (made._dreaming, made._acting, torch.cuda.default_generators[torch.cuda.current_device()])
        assert made.captured == dict.fromkeys(["collect", *PARTS], "captured" if on else "switched off")
        states.append([g.get_state() for g in generators])
    assert all(map(torch.equal, *states))


@pytest.mark.gpu
@needs_gpu
def test_going_on_from_a_snapshot_replays_the_restored_weights():
    """Restoring replaces the optimiser's moments, which a graph of before would go on writing into."""
    compute = Compute(torch.device("cuda"), torch.float32)
    made = trainer(compute)
    update = next(p for p in made.phases if p.name == "world_model").update
    for _ in range(8):
        update()
    snapshot = copy.deepcopy(made.snapshot())
    straight = [float(update()["next_frame"]) for _ in range(6)]
    made.restore(snapshot)
    assert [float(update()["next_frame"]) for _ in range(6)] == pytest.approx(straight, rel=1e-5)


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
    ended = subprocess.run([sys.executable, program, device], capture_output=True, text=True, check=False)
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
