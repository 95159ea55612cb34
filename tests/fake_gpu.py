"""A GPU that is not there: tensors with a device and a shape but no content, on which every kernel "runs".

Torch's fake tensors refuse what mixes devices and whatever asks for a value (`.item()`, `if tensor`, a boolean
index), the two things that no run on a CPU finds. Where there is a GPU its own device is faked; elsewhere one that
torch lets Python register, since a build without CUDA differentiates no tensor of it.
"""

import contextlib
from collections.abc import Iterator
from unittest import mock

import fake_autocast
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from tokendream.agent.agent import Agent
from tokendream.config.config import Config
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.spaces.observations import Spaces
from tokendream.training.synthetic import StillEnvs, synthetic_replay
from tokendream.training.trainer import Trainer

TYPE = "cuda" if torch.cuda.is_available() else "fakegpu"
if TYPE == "fakegpu":
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch lets Python register no device", allow_module_level=True)
    backend_registration._setup_privateuseone_for_python_backend(TYPE)
    torch.fakegpu.get_amp_supported_dtype = lambda: [torch.bfloat16]
    AUTOCAST = fake_autocast.register()
DEVICE = torch.device(TYPE, 0)


PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "baddbmm_", "convolution", "convolution_backward"}
"""What a GPU computes in one precision, or refuses."""


class MixedProduct(TypeError):
    """A product of two precisions, which autocast did not bring together."""


class Crossings(TorchDispatchMode):
    """Notes every copy of a tensor from one device to another, and of products their precisions, which must be one."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.products: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in PRODUCTS:
            types = {x.dtype for x in args if isinstance(x, torch.Tensor)}
            if len(types) > 1:
                raise MixedProduct(f"{func} of {types}")
            self.products |= types
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            source = args[1 if func.overloadpacket is torch.ops.aten.copy_ else 0].device.type
            if source != result.device.type:
                self.found.append(f"{source} to {result.device.type}")
        return result


@contextlib.contextmanager
def fake_gpu() -> Iterator[Crossings]:
    """A context in which tensors are fake, and `DEVICE` is a device that they can be on.

    Gradients are found on one thread: autograd has one for each device, but a `FakeTensorMode` serves one at a time.
    """
    one_thread = torch.autograd.set_multithreading_enabled(False)
    pinned = mock.patch.object(torch.Tensor, "pin_memory", lambda tensor: tensor)
    ends = mock.patch.object(torch, "clear_autocast_cache", fake_autocast.casts.clear)
    with pinned, ends, one_thread, FakeTensorMode(allow_non_fake_inputs=True), Crossings() as crossings:
        yield crossings


def moved(module: torch.nn.Module) -> torch.nn.Module:
    """A module whose parameters and buffers are on the fake GPU; call it within `fake_gpu`."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                there = torch.empty(parameter.shape, dtype=parameter.dtype, device=DEVICE)
                part._parameters[name] = torch.nn.Parameter(there, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=DEVICE)
    module.to = lambda *_: module  # what torch does there, it cannot do with fake tensors
    return module


def trainer_on(agent: Agent, config: Config, dtype: torch.dtype, spaces: Spaces, rows: int) -> Trainer:
    """A trainer on the fake GPU, with so many rows of synthetic experience; call it within `fake_gpu`."""
    with unset_fake_temporarily():
        known = synthetic_replay(rows, spaces, torch.device("cpu")).export(0, rows)
        envs = StillEnvs(spaces)
    replay = ReplayBuffer.of(spaces, rows, DEVICE)
    replay.restore(known, 0)
    with mock.patch.object(torch, "Generator", return_value=torch.Generator()):
        return Trainer(config, moved(agent), envs, replay, Compute(DEVICE, dtype, capture=False))
