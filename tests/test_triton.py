"""The Triton kernel, by Triton's interpreter on a CPU; and who gets it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tokendream.agent.agent import Agent
from tokendream.config.config import vary
from tokendream.config.presets import TINY
from tokendream.device import Compute
from tokendream.kernels.install import TRITON, has_triton, install

HERE = Path(__file__).parent
BOUNDS = {"torch.float32": 1e-6, "torch.bfloat16": 2**-7}
"""Of what is stored: the interpreter cuts off what a GPU rounds."""


needs_triton = pytest.mark.skipif(not has_triton(), reason="triton is not installed")


@needs_triton
def test_the_kernel_is_the_plain_layer_forward_and_backward():
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": f"{HERE.parent}:{os.environ.get('PYTHONPATH', '')}"}
    ended = subprocess.run(
        [sys.executable, HERE / "triton_lpips.py"], capture_output=True, text=True, check=False, env=env
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert len(found) == 6
    for case, (distance, *gradients) in found.items():
        assert distance < 1e-6, case
        assert max(gradients) < BOUNDS[case.split()[-1]], case


@needs_triton
def test_only_a_gpu_that_was_tuned_for_it_gets_the_kernel():
    agent = Agent.from_config(vary(TINY, "tokenizer", perceptual="vgg16"), 3)
    tuned = (("tokenizer", TRITON),)
    for device, found in (("cuda", tuned), ("cuda", ()), ("cpu", tuned)):
        install(agent, Compute(torch.device(device), torch.bfloat16, kernels=False, tuned=found))
        assert (type(agent.tokenizer.lpips).__name__ == "TritonLPIPS") is (device == "cuda" and found != ())
