"""Updates captured as CUDA graphs: on a GPU one launch replays forward, backward, clip and optimiser step.

The paper's networks are small for a large GPU: launched one by one, their kernels are over before the host has
launched the next. What changes shape or is drawn on the host stays outside and comes in as arguments: any nesting of
tensors that torch's pytrees walk, named tuples above all. On a CPU, and where a capture fails, the function is called
as it is.
"""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch.utils import _pytree as pytree

from tokendream.device import Compute
from tokendream.errors import one_line

Output = TypeVar("Output")

WARM_UP = 3
"""Calls before the capture: libraries and the allocator settle, and the last is watched for synchronisations."""


class Captured(Generic[Output]):
    """`run(*inputs)`, replayed from a graph once it has been called WARM_UP times.

    The calls before are ordinary ones, so that nothing has to be undone: weights, moments and random numbers advance
    as they would without. `generators` are the ones that `run` draws from beside torch's default one. Inputs may lie
    on the host. What is returned is overwritten by the next call. Inputs of another shape or type than the first
    call's are run as they are.

    A capture that fails half-way leaves torch's random states and allocator in a state in which no other graph of the
    process can be trusted: from then on none is replayed.
    """

    broken: ClassVar[str] = ""
    """Why no graph of this process is replayed any more."""

    def __init__(
        self, run: Callable[..., Output], compute: Compute, generators: Sequence[torch.Generator] = (), name: str = ""
    ) -> None:
        self._run, self._device, self._generators, self._name = run, compute.device, generators, name
        self._plain = "" if compute.capture else "switched off"
        if compute.device.type != "cuda":
            self._plain = f"no graphs on a {compute.device.type}"
        elif torch.version.hip:
            self._plain = "no graphs on ROCm"  # none of what a failed capture leaves behind is known there
        self.forget()

    @property
    def plain(self) -> str:
        """Why calls are not replayed; empty where they are, or will be."""
        return self._plain or Captured.broken

    @property
    def status(self) -> str:
        """Whether calls are replayed, for people."""
        return self.plain or ("captured" if self._graph is not None else "not captured yet")

    def forget(self) -> None:
        """Drop the graph, and capture again after WARM_UP calls: a tensor that `run` reads is another one now."""
        self._calls = 0
        self._inputs: tuple[Any, ...] = ()  # where the graph reads
        self._graph: torch.cuda.CUDAGraph | None = None
        self._side: torch.cuda.Stream | None = None
        self._output: Output

    def __call__(self, *inputs: Any) -> Output:
        if self.plain or not self._take(inputs):
            if self._device.type != "cpu":
                inputs = pytree.tree_map(lambda x: x.to(self._device, non_blocking=True), inputs)
            return self._run(*inputs)
        with torch.cuda.device(self._device):
            if self._graph is None:
                self._calls += 1
                if self._calls <= WARM_UP:
                    return self._warm_up()
                if not self._capture():
                    return self._run(*self._inputs)
            assert self._graph is not None
            self._graph.replay()
        return self._output

    def _take(self, inputs: tuple[Any, ...]) -> bool:
        """Copy the inputs to where the graph reads them. False if they do not fit there."""
        if not self._inputs:
            self._inputs = pytree.tree_map(lambda x: torch.empty_like(x, device=self._device), inputs)
        (given, form), (held, held_form) = pytree.tree_flatten(inputs), pytree.tree_flatten(self._inputs)
        if form != held_form or [(x.shape, x.dtype) for x in given] != [(x.shape, x.dtype) for x in held]:
            return False
        for target, x in zip(held, given, strict=True):
            target.copy_(x, non_blocking=True)
        return True

    def _warm_up(self) -> Output:
        """An ordinary call on a stream of its own, as capturing asks for; the last one is watched."""
        current, side = torch.cuda.current_stream(), self._side or torch.cuda.Stream()
        self._side = side
        side.wait_stream(current)
        with torch.cuda.stream(side), _synchronisations() as found:
            output = self._run(*self._inputs)
        current.wait_stream(side)
        if self._calls == WARM_UP and found:
            self._give_up(found[0])
        return output

    def _capture(self) -> bool:
        """Record one call; nothing runs. Returns False, having said why, if that cannot be done.

        Not while Python collects garbage: a graph or kernel that is freed meanwhile would spoil the capture.
        """
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        index = torch.cuda.current_device()
        # A generator in a failed capture refuses to draw ever after: keep what it was.
        kept = [(g, g.clone_state()) for g in (torch.cuda.default_generators[index], *self._generators)]
        pool = torch.cuda.graph_pool_handle()
        gc.collect()
        collecting = gc.isenabled()
        gc.disable()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # newer versions find the generators themselves, and say so
                for generator in self._generators:
                    graph.register_generator_state(generator)
            with torch.cuda.graph(graph, pool, self._side, "thread_local"):
                self._output = self._run(*self._inputs)
        except BaseException as error:
            torch.cuda.set_stream(before)  # torch leaves the stream of a failed capture current
            for generator, state in kept:
                generator.graphsafe_set_state(state)
            # Where recording ended in order and only making the graph failed, the allocator refuses to end once more,
            # and torch releases the pool together with the graph: a second release would abort the process.
            with contextlib.suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(index, pool)
                torch._C._cuda_releasePool(index, pool)
            Captured.broken = one_line(error.__context__ or error)
            if not isinstance(error, Exception):
                raise
            self._give_up(Captured.broken)
            return False
        finally:
            if collecting:
                gc.enable()
        self._graph = graph
        return True

    def _give_up(self, reason: str) -> None:
        self._plain, self._graph = reason, None
        warnings.warn(f"{self._name or 'this'} runs without a CUDA graph: {reason}", RuntimeWarning, stacklevel=4)


def capturing(compute: Compute, name: str) -> Callable[[Callable[..., Output], torch.Generator], Captured[Output]]:
    """What makes a function that draws from a generator a captured one: for whoever must not know this module."""
    return lambda run, generator: Captured(run, compute, [generator], name)


@contextlib.contextmanager
def _synchronisations() -> Iterator[list[str]]:
    """The places at which the host waits for the device within the context, which no capture survives."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for warning in caught:
        if "called a synchronizing" in str(warning.message):  # the mode also warns that it exists
            found.append(f"the host waits for the device at {warning.filename}:{warning.lineno}")
