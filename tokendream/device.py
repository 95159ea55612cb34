"""Where the computation runs and in which precision: the one place where both are decided."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import os
import platform
import re
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokendream.errors import ConfigError


@dataclass(frozen=True)
class Compute:
    """A device, and the type of its matrix products. Parameters, norms, losses and states stay float32."""

    device: torch.device
    dtype: torch.dtype
    kernels: bool = True
    """Whether a CPU may use the fused ops (`kernels.cpu`)."""
    capture: bool = True
    """Whether a GPU replays each update as one captured graph (`kernels.cuda_graph`); a CPU has none."""
    compile: bool = False
    """Whether torch.compile makes fused ops of the layers (`kernels.compiled`)."""
    tuned: tuple[tuple[str, str], ...] = ()
    """What computes each part of an agent on a GPU that was tuned (`kernels.tuned`), as pairs; empty where not."""
    deterministic: bool = False
    """Whether the same seed gives the same run to the bit on a GPU; on a CPU it does so anyway."""

    @staticmethod
    def resolve(device: str = "auto", precision: str = "auto", **switches: Any) -> Compute:
        """Turn a config's words into what this machine has, and set torch's global switches to match.

        "auto" is bf16 where a GPU has it in hardware; of a CPU `kernels.machine.compute_for` knows more. `switches`:
        the fields of this class that are true or false. Raises ConfigError for a device that is not there.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if not re.fullmatch(r"(cpu|cuda)(:(0|[1-9]\d?))?", device):
            raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, not {device!r}")
        found = torch.device(device)
        count = torch.cuda.device_count()
        if found.type == "cuda" and (found.index or 0) >= count:
            raise ConfigError(f"device {device} is not there: this machine has {count or 'no'} CUDA device(s)")
        bf16 = precision == "bf16" or (precision == "auto" and found.type == "cuda" and _gpu_has_bf16(found))
        compute = Compute(found, torch.bfloat16 if bf16 else torch.float32, **switches)
        if found.type == "cuda":
            _switch(deterministic=compute.deterministic)
        return compute

    def autocast(self) -> torch.autocast:
        """The context in which every forward pass runs."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype is torch.bfloat16)

    @contextlib.contextmanager
    def searching(self) -> Iterator[None]:
        """The context of what has one shape (an update, a batch to encode): cuDNN tries each convolution once.

        Not elsewhere, since each new shape is searched for. Nor where runs are to repeat themselves: the fastest is
        another one now and then.
        """
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = self.device.type == "cuda" and not self.deterministic
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = before

    def describe(self) -> str:
        """Device and precision for people; `kernels.install.describe` says what computes on it, too."""
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        else:
            threads = torch.get_num_threads()
            name = f"CPU, {threads} thread{'s' * (threads != 1)}"
        return f"{name}, {self.precision}"

    @property
    def precision(self) -> str:
        """Its name: bf16 or float32."""
        return "bf16" if self.dtype is torch.bfloat16 else "float32"


def processor() -> str:
    """The processor's name, as Linux has it; elsewhere what Python knows of it."""
    return cpuinfo().get("model name") or platform.processor() or platform.machine()


def kind_of_processor(device: torch.device) -> str:
    """What figures are kept apart by: GPU, AMX, AVX-512, AVX2 or ARM; of another processor its own name."""
    flags = cpuinfo().get("flags", "").split()
    found = {"GPU": device.type == "cuda", "AMX": "amx_bf16" in flags, "AVX-512": "avx512f" in flags,
             "AVX2": "avx2" in flags, "ARM": platform.machine() in ("aarch64", "arm64")}  # fmt: skip
    return next((kind for kind, there in found.items() if there), platform.machine())


def free_here() -> int:
    """Bytes that are available to new processes, also where a container has less than the machine; -1 if unknown."""
    found = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
        found.append(1024 * int(lines["MemAvailable"].split()[0]))
    with contextlib.suppress(OSError, ValueError, KeyError):  # "max" where there is no limit
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="utf-8"))
        used = dict(line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
        found.append(limit - int(used["anon"]))  # the cache of files beside it gives way
    return max(0, min(found)) if found else -1


def cpuinfo() -> dict[str, str]:
    """What Linux says of the first processor, by its names (`model name`, `flags`); nothing elsewhere."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def peak_memory() -> int:
    """The process's largest resident set, in bytes: on Linux since the mark was last reset, elsewhere of its life."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def most_memory(device: torch.device) -> int:
    """Bytes at the highest: allocated tensors on a GPU, resident memory of the process on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()


def put(array: np.ndarray, device: torch.device) -> Tensor:
    """An array of the host on the device. A GPU fetches it from pinned memory, so nobody waits for it."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Pace:
    """Lets the host run at most two updates ahead of a GPU, which keeps it busy.

    Without that a whole phase is handed over in an instant: clocks, progress and Ctrl-C would all be wrong about it.
    """

    AHEAD = 2

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._handed_over: collections.deque[torch.cuda.Event] = collections.deque()

    def keep(self) -> None:
        """An update has been handed over: wait for the one AHEAD updates before it. Nothing on a CPU."""
        if self._device.type != "cuda":
            return
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        self._handed_over.append(event)
        if len(self._handed_over) > self.AHEAD:
            self._handed_over.popleft().synchronize()


def _switch(*, deterministic: bool) -> None:
    """Torch's global switches on a GPU: the one place where they are set.

    No TF32, in either mode: whoever asks for float32 wants an oracle, the bf16 path keeps in float32 only what needs
    it, and the nearest code by TF32 distances is the wrong one at times (see `Quantizer.nearest`). By default torch
    would use it in convolutions. Of what has no deterministic kernel torch warns once: `cumsum` in `sample`, whose
    rows are summed in a fixed order all the same.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # sums of bf16 products in float32
    torch.backends.cudnn.deterministic = deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # Filled with NaN, every `empty` costs a kernel more; it only helps to find what reads such memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that there was no memory left, on the host or on the device."""
    # On the host, torch raises a plain RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        type(error) is RuntimeError and "can't allocate memory" in str(error)
    )


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks for the next update instead of giving them back to the system each time.

    By default every tensor of some megabytes is mapped, zeroed page by page and unmapped again: without that, dreams
    run 20% faster and world-model updates 4% on two cores. Does nothing where there is no glibc.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(AttributeError, OSError):
            libc = ctypes.CDLL(None)
            # M_MMAP_THRESHOLD: below a gigabyte, no mapping of its own; older ones take 32 MiB at most.
            libc.mallopt(-3, 1 << 30) or libc.mallopt(-3, 1 << 25)
            libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: free memory at the top stays


def _gpu_has_bf16(device: torch.device) -> bool:
    """Whether the GPU multiplies bf16 in hardware; older ones convert every number, more slowly than float32."""
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)
