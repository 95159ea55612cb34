"""`tokendream machine`: what this machine is, what it reaches, and what a run uses of it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from tokendream.config.config import Config
from tokendream.config.presets import preset


@dataclass(frozen=True)
class Machine:
    """Say what this machine reaches, what a run uses of it and why; measured once, in a second or two."""

    again: bool = False
    """Measure even where that was done before."""
    tune: bool = False
    """On a GPU: time PyTorch's own operators, torch.compile and our kernel, and let runs use the fastest."""


def run(options: Machine) -> int:
    import torch

    from tokendream.device import processor
    from tokendream.kernels import machine
    from tokendream.kernels.install import describe

    if options.tune:
        from tokendream.training import tuning

        config = preset("rem")
        return tuning.main(config, machine.compute_for(config))
    found = machine.calibration(kernels=True, again=options.again)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    print(f"processor: {processor()}, {os.cpu_count()} cores, {memory:.0f} GiB of memory; torch {torch.__version__}")
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        said = f"GPU {i}: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"
        print(f"{said}; in a clone, python -m benchmarks gpu measures its speed")
    if not torch.cuda.device_count():
        print("GPU: none that torch can use")
    for precision, flops in found.products.items():
        alone = "" if found.fastest(precision) < math.inf else ", one thread"
        print(f"products in {precision}: {flops / 1e12:.3g} TFLOP/s{alone}")
    print(f"copies: {found.copies / 1e9:.3g} GB/s, read and written")
    compute = machine.compute_for(Config(), threads=True)
    print(f"a run uses: {describe(compute)}")
    if compute.device.type == "cpu":
        bf16, float32 = found.fastest("bf16"), found.fastest("float32")
        slower = f"an update of four layers takes {1e3 * float32:.3g} ms, in bf16 {1e3 * bf16:.3g} ms"
        print(f"  precision: {slower if bf16 < float('inf') else 'products in bf16 are slower than those in float32'}")
        for what, seconds in found.updates.items():
            print(f"  kernels: the update takes {1e3 * seconds:.3g} ms of one thread in {what}")
        for threads, seconds in found.threads.items():
            print(f"  threads: the update takes {1e3 * seconds:.3g} ms with {threads}")
        if len(found.threads) == 1:
            why = "OMP_NUM_THREADS says so" if "OMP_NUM_THREADS" in os.environ else "there is one core, or it was busy"
            print(f"  threads: no other number was tried, as {why}")
    return 0
