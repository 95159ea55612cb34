"""Installing faster layers into a tree and taking them out again; and the method without any."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from comparing import CPU, choose

from tokendream.agent.agent import Agent
from tokendream.config.config import vary
from tokendream.config.presets import TINY
from tokendream.device import Compute
from tokendream.kernels.cpu import build
from tokendream.kernels.cpu.fused import FUSED
from tokendream.kernels.frozen import RoundedConv
from tokendream.kernels.install import IN_BF16, PLAIN, describe, install, uninstalled
from tokendream.nn.lpips import LPIPS, FrozenConv
from tokendream.nn.transformer import TransformerLayer

HERE = Path(__file__).parent

METHOD = [
    *["retention", "retnet", "backbones", "transformer", "conv", "quantizer", "tokenizer", "patch", "lpips"],
    *["world_model", "actor_critic", "agent", "imagine", "objective", "controls", "replay"],
    *["hl_gauss", "correspondence", "pretrained", "group", "spaces", "parity_numbers"],
]
"""Tests of what the paper describes and its successors add, but for files that train too."""


def classes(tree: torch.nn.Module) -> list[str]:
    return [type(module).__name__ for module in tree.modules()]


@pytest.mark.skipif(build.why_not() is not None, reason=f"no kernels here: {build.why_not()}")
def test_nothing_but_the_class_of_a_layer_changes():
    agent = Agent.from_config(TINY, 3)
    before, plain = agent.state_dict(), classes(agent)
    assert set(FUSED) - {type(module) for module in agent.modules()} <= {LPIPS, FrozenConv, TransformerLayer}
    for kernels in (True, True, False):
        choose(agent, kernels=kernels)
        after = agent.state_dict()
        assert list(after) == list(before)
        assert all(after[name] is tensor or torch.equal(after[name], tensor) for name, tensor in before.items())
        assert (classes(agent) == plain) is not kernels
    choose(agent, kernels=True)
    fused = classes(agent)
    with uninstalled(agent):
        assert classes(agent) == plain
    assert classes(agent) == fused


def test_off_is_plain_and_a_gpu_has_no_kernels_of_ours():
    agent = Agent.from_config(TINY, 3)
    plain = classes(agent)
    install(agent, Compute(torch.device("cuda"), torch.float32))
    assert classes(agent) == plain
    install(agent, Compute(CPU, torch.float32, kernels=False))
    assert classes(agent) == plain
    assert "kernels" not in describe(Compute(CPU, torch.float32, kernels=False))
    assert "kernels" in describe(Compute(CPU, torch.float32))


def test_a_gpu_in_bf16_has_what_is_stored_and_rounded_so():
    agent = Agent.from_config(vary(TINY, "tokenizer", perceptual="alexnet"), 3)
    install(agent, Compute(torch.device("cuda"), torch.bfloat16))
    assert set(map(type, agent.modules())) >= set(IN_BF16.values())
    assert not set(map(type, agent.modules())) & set(IN_BF16)


def test_a_convolution_rounds_its_weight_again_where_that_is_another():
    convolution = FrozenConv(torch.randn(4, 3, 3, 3), torch.randn(4), 1, 1)
    x, plain = torch.randn(2, 3, 8, 8), type(convolution)
    for _ in range(2):
        expected = convolution(x)
        convolution.__class__ = RoundedConv
        assert torch.allclose(convolution(x), expected, atol=1e-5)
        convolution.__class__ = plain
        convolution.weight = convolution.weight + 1


def test_each_part_of_an_agent_computes_in_the_way_that_tuning_found(monkeypatch):
    agent = Agent.from_config(TINY, 3)
    plain = [classes(part) for part in agent.children()]
    tuned = Compute(CPU, torch.float32, kernels=False, tuned=(("tokenizer", PLAIN), ("world_model", "torch.compile")))
    install(agent, tuned)
    V, M, C = (classes(part) for part in agent.children())
    assert (plain[0], plain[2]) == (V, C)
    assert "CompiledRetNetLayer" in M
    assert "CompiledNormSwish" not in M + V
    assert describe(tuned).endswith(", float32, tuned: tokenizer by PyTorch, world_model by torch.compile")
    monkeypatch.setattr(Compute, "describe", lambda _: "Some GPU, bf16")
    assert describe(Compute(torch.device("cuda"), torch.bfloat16)) == "Some GPU, bf16, not tuned"
    install(agent, Compute(CPU, torch.float32, kernels=False))
    assert [classes(part) for part in agent.children()] == plain


@pytest.mark.slow
def test_the_method_needs_no_kernels():
    """Every test of it passes where the folder is not there."""
    tests = [str(HERE / f"test_{name}.py") for name in METHOD]
    gone = "import sys, pytest; sys.modules['tokendream.kernels'] = None; sys.exit(pytest.main(sys.argv[1:]))"
    command = [sys.executable, "-c", gone, "-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu", *tests]
    env = {**os.environ, "UNCHECKED": "1"}
    ended = subprocess.run(command, cwd=HERE.parent, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-1000:]


COMPILED = """
import json, sys, torch
sys.path.insert(0, {here!r})
from comparing import draws, rounding
from test_fused import LAYERS
from tokendream.device import Compute
from tokendream.kernels.install import install
cpu = torch.device("cpu")
for name in {names}:
    run, shapes, module = LAYERS[name]
    exact, plain = (draws(run, shapes, module, dtype) for dtype in (torch.float32, torch.bfloat16))
    install(module, Compute(cpu, torch.float32, compile=True))
    made = [draws(run, shapes, module, dtype) for dtype in (torch.float32, torch.bfloat16)]
    print(json.dumps([name, *(rounding(rough, exact) for rough in (*made, plain))]))
"""


@pytest.mark.slow
def test_what_torch_compiles_is_the_plain_layer():
    """As for a GPU, and no worse in bf16; in another process, since checks of types are not to be compiled."""
    names = ["ffn", "transformer", "norm, swish", "down", "distance"]
    code = COMPILED.format(here=str(HERE), names=names)
    env = {**os.environ, "PYTHONPATH": str(HERE.parent), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [name for name, *_ in found] == names
    for name, in_float32, in_bf16, plain in found:
        assert 0 < in_float32 < 1e-6, name  # not 0: it was not the plain one that ran
        assert in_bf16 < 1.2 * plain, name
