import contextlib
import dataclasses
import gc
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from tokendream.config.presets import TINY
from tokendream.config.training import PhaseConfig
from tokendream.device import Compute
from tokendream.kernels import cuda_graph
from tokendream.kernels.cuda_graph import WARM_UP, Captured
from tokendream.kernels.machine import compute_for
from tokendream.nn.losses import Losses
from tokendream.training.update import apply, gradient_update, optimiser_for

CPU = Compute(torch.device("cpu"), torch.float32)
PHASE = PhaseConfig(1, 1, 4, 1e-2, 0.01, 1.0)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and GPU_TESTS=1")


def noisy(generator: torch.Generator) -> tuple[nn.Linear, torch.optim.AdamW, partial]:
    """A small update that draws from a generator of its own and from torch's."""
    torch.manual_seed(0)
    module = nn.Linear(3, 1)
    optimiser = optimiser_for(module, PHASE)

    def loss(x: torch.Tensor) -> Losses:
        return Losses({"square": (module(x) + torch.rand(4, 1, generator=generator) + torch.rand(())).square().mean()})

    how = {"loss": loss, "module": module, "optimiser": optimiser, "clip": PHASE.clip, "compute": CPU}
    return module, optimiser, partial(gradient_update, **how)


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
        losses = written.keywords["loss"](batch)
        norm = apply(losses, optimiser, PHASE.clip)
        expected += [losses.total.detach(), norm]
    assert all(map(torch.equal, seen, expected))
    assert all(map(torch.equal, after, [*other.parameters(), torch.get_rng_state(), two.get_state()]))


class FakeGraph:
    """A graph that records by remembering the function, and replays by calling it."""

    fails = ""
    """What goes wrong when the recording ends."""
    unmade = ""
    """What goes wrong afterwards, when a graph is made of what was recorded."""
    running: "FakeGraph | None" = None

    def __init__(self):
        self.work, self.generators = [], []

    def register_generator_state(self, generator):
        warnings.warn("no longer needed", DeprecationWarning, stacklevel=1)
        self.generators.append(generator)

    def replay(self):
        for work in self.work:
            work()


class Pool:
    """The allocator's side of a capture: it ends once, and what it holds is released once."""

    recording = False
    released = 0

    @classmethod
    def end(cls, *_) -> None:
        if not cls.recording:
            raise RuntimeError("not currently recording to mempool_id")
        cls.recording = False

    @classmethod
    def release(cls, *_) -> None:
        cls.released += 1


@contextlib.contextmanager
def recording(graph, *_):
    assert not gc.isenabled()  # what it frees would spoil a capture
    before = torch.get_rng_state()
    FakeGraph.running = graph
    Pool.recording = True
    try:
        yield
        if FakeGraph.fails:
            raise RuntimeError(FakeGraph.fails)
        Pool.end()
        if FakeGraph.unmade:
            Pool.release()  # torch does, when it frees the graph
            raise RuntimeError(FakeGraph.unmade)
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
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", Pool.end, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", Pool.release, raising=False)
    for of, name, value in ((FakeGraph, "fails", ""), (FakeGraph, "unmade", ""), (Pool, "released", 0)):
        monkeypatch.setattr(of, name, value)

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
    assert (Pool.recording, Pool.released) == (False, 1)
    assert gc.isenabled()
    assert float(captured(torch.ones(2))) == 2
    assert captured.plain == "operation not permitted when stream is capturing"


def test_a_graph_that_cannot_be_made_has_its_memory_released_once(pretend, monkeypatch):
    """A second release aborts the process."""
    monkeypatch.setattr(FakeGraph, "unmade", "out of memory")
    captured = pretend(Counter())
    for _ in range(WARM_UP):
        captured(torch.ones(2))
    with pytest.warns(RuntimeWarning, match="out of memory"):
        captured(torch.ones(2))
    assert (Pool.recording, Pool.released) == (False, 1)


@pytest.mark.parametrize("raised", [TypeError("unsupported"), KeyboardInterrupt()])
def test_whatever_leaves_a_capture_is_cleaned_up(raised, pretend):
    """A fault that only a capture meets costs the graph; Ctrl-C goes through, and no later call trusts a graph."""
    generator, counter = FakeGenerator(), Counter()

    def run(x: torch.Tensor) -> torch.Tensor:
        if FakeGraph.running is not None:
            raise raised
        return counter(x)

    captured = pretend(run, [generator])
    for _ in range(WARM_UP):
        captured(torch.ones(2))
    with pytest.raises(KeyboardInterrupt) if isinstance(raised, KeyboardInterrupt) else pytest.warns(RuntimeWarning):
        captured(torch.ones(2))
    assert generator.restored == 1
    assert (Pool.recording, Pool.released) == (False, 1)
    assert gc.isenabled()
    assert captured.plain == (str(raised) or "KeyboardInterrupt")
    assert float(captured(torch.ones(2))) == 2


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


def test_capture_can_be_switched_off(monkeypatch):
    off = dataclasses.replace(CPU, capture=False)
    assert Captured(Counter(), off).plain
    assert compute_for(dataclasses.replace(TINY, capture=False)).capture is False
    cuda = Compute(torch.device("cuda"), torch.float32)
    assert Captured(Counter(), cuda).plain == ""
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert Captured(Counter(), cuda).plain == "no graphs on ROCm"


def test_nothing_of_torch_s_capture_api_is_missing():
    """The attributes that `capture` names exist in this version of torch, GPU or not (of torch._C, only with CUDA)."""
    for name in ("CUDAGraph", "graph", "graph_pool_handle", "Stream", "stream", "Event", "set_sync_debug_mode"):
        assert hasattr(torch.cuda, name)
    assert all(hasattr(torch.Generator, name) for name in ("clone_state", "graphsafe_set_state"))
    assert cuda_graph.WARM_UP >= 3  # torch asks for as many before a capture
