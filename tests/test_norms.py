"""Norms as a GPU computes them in bf16, against nn's own in float32: on a CPU the same lines run."""

import pytest
import torch
from comparing import apart, results
from torch import nn

from tokendream.kernels.install import IN_BF16
from tokendream.nn.conv import NormSwish

NORMS = {"layer norm": (nn.LayerNorm(24, eps=1e-6), (3, 5, 24)), "norm and swish": (NormSwish(24), (3, 24, 4, 5))}


def swapped(name: str) -> tuple[nn.Module, nn.Module, tuple[int, ...]]:
    """A norm whose weights are anything, and the one that takes its place."""
    plain, shape = NORMS[name]
    torch.manual_seed(0)
    for p in plain.parameters():
        nn.init.normal_(p)
    stored = type(plain).__new__(IN_BF16[type(plain)])
    stored.__dict__ = plain.__dict__
    return plain, stored, shape


@pytest.mark.parametrize("name", NORMS)
def test_in_float32_nothing_changes(name):
    plain, stored, shape = swapped(name)
    a, b = (results(lambda x, run=run: [run(x)], [shape], run, torch.float32) for run in (plain, stored))
    assert all(map(torch.equal, a, b))


@pytest.mark.parametrize("name", NORMS)
def test_in_bf16_they_are_as_near_to_float32_as_norms_in_float32_that_are_rounded(name):
    plain, stored, shape = swapped(name)

    def rounded(x):  # what CUDA's autocast does
        with torch.autocast("cpu", enabled=False):
            return [plain(x.float()).bfloat16()]

    exact = results(lambda x: [plain(x.bfloat16().float())], [shape], plain, torch.float32)
    far = apart(results(rounded, [shape], plain, torch.bfloat16), exact)
    found = results(lambda x: [stored(x)], [shape], stored, torch.bfloat16)
    assert stored(torch.zeros(shape, dtype=torch.bfloat16)).dtype is torch.bfloat16
    assert far < 2**-8
    assert apart(found, exact) < 2 * far
