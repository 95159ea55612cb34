"""Device, precision and torch's global switches, with a GPU that is only said to be there; bf16 updates on the CPU."""

import contextlib

import pytest
import torch

from tokendream import device
from tokendream.agent.agent import Agent
from tokendream.config.presets import TINY
from tokendream.device import Compute, kind_of_processor
from tokendream.nn.losses import Losses
from tokendream.training.synthetic import ACTIONS, StillEnvs, synthetic_replay
from tokendream.training.trainer import Trainer
from tokendream.training.update import gradient_update


@pytest.fixture
def said_to_be_there(monkeypatch):
    """A CUDA device by word; whatever torch's switches are set to is undone."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    deterministic, fill = (
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    reduced, tf32 = matmul.allow_bf16_reduced_precision_reduction, matmul.allow_tf32
    with cudnn.flags(cudnn.enabled, cudnn.benchmark, cudnn.benchmark_limit, cudnn.deterministic, cudnn.allow_tf32):
        yield monkeypatch
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    matmul.allow_bf16_reduced_precision_reduction, matmul.allow_tf32 = reduced, tf32


@pytest.mark.parametrize(("in_hardware", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bf16_only_where_the_gpu_has_it_in_hardware(in_hardware, dtype, said_to_be_there):
    said_to_be_there.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or in_hardware
    )
    assert Compute.resolve("cuda").dtype is dtype
    assert Compute.resolve("cuda", "bf16").dtype is torch.bfloat16  # whoever asks for it gets it


@pytest.mark.usefixtures("said_to_be_there")
def test_deterministic_kernels_fill_no_memory_and_products_are_summed_in_float32():
    Compute.resolve("cuda", deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(
    ("flags", "machine", "kind"),
    [
        ("avx2 avx512f amx_bf16", "x86_64", "AMX"),
        ("avx2 avx512f avx512_bf16", "x86_64", "AVX-512"),  # Zen 4 and 5, which run in bf16, too
        ("avx2", "x86_64", "AVX2"),
        ("", "aarch64", "ARM"),
        ("", "riscv64", "riscv64"),
    ],
)
def test_the_kind_of_a_processor_is_what_it_can_do(flags, machine, kind, monkeypatch):
    monkeypatch.setattr(device, "cpuinfo", lambda: {"flags": flags})
    monkeypatch.setattr(device.platform, "machine", lambda: machine)
    assert kind_of_processor(torch.device("cpu")) == kind
    assert kind_of_processor(torch.device("cuda")) == "GPU"


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.usefixtures("said_to_be_there")
def test_cudnn_searches_within_updates_unless_runs_are_to_repeat_themselves(deterministic, monkeypatch):
    seen = []
    compute = Compute.resolve("cuda", deterministic=deterministic)
    module, zero = torch.nn.Linear(1, 1), torch.zeros(())

    def forward(batch: tuple[()]) -> Losses:
        seen.append(torch.backends.cudnn.benchmark)
        return Losses({"nothing": zero})

    def backward(*_) -> torch.Tensor:
        seen.append(torch.backends.cudnn.benchmark)
        return zero

    monkeypatch.setattr("tokendream.training.update.apply", backward)
    optimiser = torch.optim.SGD(module.parameters())
    gradient_update((), loss=forward, module=module, optimiser=optimiser, clip=1.0, compute=compute)
    assert seen == [not deterministic] * 2  # forward, and backward
    assert not torch.backends.cudnn.benchmark


def test_every_parameter_learns_from_a_bf16_update_of_the_policy():
    """Autocast caches casts of weights: one made where no gradient is asked for would cut a parameter off."""
    torch.manual_seed(0)
    compute = Compute(torch.device("cpu"), torch.bfloat16)
    agent = Agent.from_config(TINY, ACTIONS)
    trainer = Trainer(TINY, agent, StillEnvs(64), synthetic_replay(64, 64, compute.device), compute)
    trainer.update("actor_critic")
    gradients = {name: p.grad for name, p in agent.actor_critic.named_parameters()}
    assert [name for name, g in gradients.items() if g is None or not g.any()] == []
