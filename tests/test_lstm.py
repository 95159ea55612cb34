"""The LSTM of C: one step is torch's cell, many are the same steps, and their gradient is the true one."""

import pytest
import torch

from tokendream.kernels.cpu import build
from tokendream.kernels.cpu.fused import FusedLSTM
from tokendream.nn.lstm import LSTM, _Along

M, B, N = 12, 5, 7


def learned(dtype):
    torch.manual_seed(0)
    cell = LSTM(M, M).to(dtype)
    x, h, c = torch.randn(B, N, M, dtype=dtype), torch.randn(B, M, dtype=dtype), torch.randn(B, M, dtype=dtype)
    return cell, x, h, c


def steps(cell, x, h, c):
    found = []
    for one in x.unbind(1):
        h, c = cell.step(one, h, c)
        found.append(h)
    return torch.stack(found, dim=1)


def gradients(found, cell, given):
    weighed = found * torch.linspace(-1, 1, found.numel()).view_as(found)
    return torch.autograd.grad(weighed.sum(), [*given, *cell.weights])


@pytest.fixture(params=[LSTM, FusedLSTM])
def kind(request):
    """torch's operators, and our kernels."""
    if request.param is FusedLSTM and build.why_not() is not None:
        pytest.skip(f"no kernels here: {build.why_not()}")
    return request.param


def test_many_steps_are_each_of_them_to_the_bit(kind):
    """So that what a dream's policies were and what they are when it is learned from are the same."""
    cell, x, h, c = learned(torch.float32)
    cell.__class__ = kind
    with torch.autocast("cpu", torch.bfloat16):
        found = cell.along(x, h, c)
        with torch.no_grad():
            assert torch.equal(found, steps(cell, x, h, c))
    assert found.dtype == torch.float32


def test_the_gradient_is_the_true_one():
    cell, x, h, c = learned(torch.float64)
    given = [x, h, c, *cell.weights]
    assert torch.autograd.gradcheck(_Along.apply, [one.detach().requires_grad_() for one in given])


@pytest.mark.parametrize("autocast", [False, True])
def test_the_gradient_is_that_of_the_steps(kind, autocast):
    """In float32 to rounding; in bf16 it is hardly further than torch's from what float64 has."""
    cell, *given = learned(torch.float32)
    exact = LSTM(M, M).double()
    exact.load_state_dict(cell.state_dict())
    given = [one.requires_grad_() for one in given]
    doubled = [one.detach().double().requires_grad_() for one in given]
    truth = gradients(steps(exact, *doubled), exact, doubled)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        plain = steps(cell, *given)
        cell.__class__ = kind
        ours = cell.along(*given)
    assert (ours - plain).abs().max() < (0.02 if autocast else 1e-5)
    for g, p, t in zip(gradients(ours, cell, given), gradients(plain, cell, given), truth, strict=True):
        assert g.dtype == torch.float32
        error, least = (g - t).norm(), (p - t).norm()
        assert error <= (1.2 * least + 1e-6 * t.norm() if autocast else 1e-5 * t.norm())
        assert t.norm() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_without_a_gradient_is_that_of_the_plain_cell(kind, dtype):
    cell, x, h, c = learned(torch.float32)
    far = 40 * x[:, 0]  # gates that are shut or wide open, too
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
        for one in (x[:, 0], far):
            plain = cell.step(one, h, c)
            cell.__class__ = kind
            for found, wanted in zip(cell.step(one, h, c), plain, strict=True):
                assert found.dtype == torch.float32
                assert torch.allclose(found, wanted, atol=2e-6 if dtype is torch.float32 else 0.02)
            cell.__class__ = LSTM


def test_nan_stays_nan(kind):
    cell, x, h, c = learned(torch.float32)
    cell.__class__ = kind
    x[0, 2, 3] = torch.nan
    with torch.autocast("cpu", torch.bfloat16):
        assert cell.along(x, h, c)[0, 2:].isnan().all()
        assert cell.along(x, h, c)[1:].isfinite().all()
