"""The LSTM of C: one step is torch's cell, many are the same steps, and their gradient is the true one."""

import pytest
import torch
from torch import nn

from tokendream.nn import lstm

M, B, N = 12, 5, 7


def learned(dtype):
    torch.manual_seed(0)
    cell = nn.LSTMCell(M, M).to(dtype)
    x, h, c = torch.randn(B, N, M, dtype=dtype), torch.randn(B, M, dtype=dtype), torch.randn(B, M, dtype=dtype)
    return cell, x, h, c


def steps(x, h, c, weights):
    found = []
    for one in x.unbind(1):
        h, c = lstm.cell(one, h, c, weights)
        found.append(h)
    return torch.stack(found, dim=1)


def gradients(h, cell, x):
    return torch.autograd.grad((h * torch.linspace(-1, 1, h.numel()).view_as(h)).sum(), [x, *lstm.weights_of(cell)])


def test_many_steps_are_each_of_them_to_the_bit():
    cell, x, h, c = learned(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = lstm.along(x, h, c, lstm.weights_of(cell))
        assert torch.equal(found, steps(x, h, c, lstm.weights_of(cell)))
    assert found.dtype == torch.float32


def test_the_gradient_is_the_true_one():
    cell, x, h, c = learned(torch.float64)
    given = [x, h, c, *lstm.weights_of(cell)]
    assert torch.autograd.gradcheck(lstm._Along.apply, [one.detach().requires_grad_() for one in given])


@pytest.mark.parametrize("autocast", [False, True])
def test_the_gradient_is_that_of_the_steps(autocast):
    """In float32 to rounding; in bf16 it is no further than theirs from what float64 has."""
    cell, x, h, c = learned(torch.float32)
    x.requires_grad_()
    exact_cell, *exact = (part.double() for part in (nn.LSTMCell(M, M), x.detach(), h, c))
    exact_cell.load_state_dict(cell.state_dict())
    exact[0].requires_grad_()
    truth = gradients(steps(*exact, lstm.weights_of(exact_cell)), exact_cell, exact[0])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours, plain = (f(x, h, c, lstm.weights_of(cell)) for f in (lstm.along, steps))
    for g, p, t in zip(gradients(ours, cell, x), gradients(plain, cell, x), truth, strict=True):
        assert g.dtype == torch.float32
        error, least = (g - t).norm(), (p - t).norm()
        assert error <= (1.2 * least + 1e-6 * t.norm() if autocast else 1e-5 * t.norm())
    assert all(t.norm() > 0 for t in truth)
