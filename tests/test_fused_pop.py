"""A whole RetNet with fused layers against the plain one: POP's outputs, states and gradients."""

import pytest
import torch
from comparing import apart, autocast, choose
from torch import nn

from tokendream.kernels import chunkwise as written
from tokendream.kernels.cpu import build, fused
from tokendream.nn import retnet
from tokendream.nn.retention import decay_rates
from tokendream.nn.retnet import RetNet

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=f"no kernels here: {build.why_not()}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [64, 128])  # heads that fill no tile, and heads that do
def test_pop_with_kernels_is_pop(dtype, width):
    """Outputs, states and gradients of a whole network, over several blocks and layers."""
    torch.manual_seed(0)
    net, K1 = RetNet(width, 3, 4, 4, 0.0), 10
    x, u = torch.randn(2, 4, K1, width), torch.randn(K1 - 1, width)

    def outcome(kernels: bool) -> list[torch.Tensor]:
        choose(net, kernels=kernels).zero_grad()
        with autocast(dtype):
            y, y_next, state = net.pop(x.to(dtype), u, net.initial_state(2), slice(1, None), tail=1)
        (y.float().square().sum() + y_next.float().square().sum() + state.S.square().sum()).backward()
        assert all(p.grad is not None for p in net.parameters())
        return [t.detach().float() for t in (y, y_next, state.S)] + [p.grad for p in net.parameters()]

    assert apart(outcome(True), outcome(False)) < {torch.float32: 2e-5, torch.bfloat16: 0.04}[dtype]


@pytest.mark.parametrize(
    ("width", "heads", "K1", "T", "B", "predict"),
    [
        (256, 4, 65, 1, 4, slice(None)),  # a dream's step
        (128, 4, 37, 3, 2, slice(1, None)),  # blocks of context, and a block that fills no tile
        (128, 4, 17, 4, 3, slice(1, 3)),
        (64, 2, 10, 2, 1, slice(0, 0)),  # nothing predicted
        (64, 2, 33, 1, 2, slice(None)),
        (64, 2, 128, 2, 1, slice(None)),  # whole tiles
    ],
)
@torch.no_grad()
def test_pop_in_one_pass_is_as_near_to_float32_as_plain_pop(width, heads, K1, T, B, predict):
    """Without a gradient, on a processor with AMX; elsewhere these are the separate ops, and as near.

    The error of one draw scatters by a third, so eight are compared in pairs: were both as near, the mean difference
    would lie within 3 of its own standard errors of zero. More than that on the wrong side is a kernel that is worse.
    """
    errors = torch.tensor([_errors_in_bf16(seed, width, heads, K1, T, B, predict) for seed in range(8)])
    ours, plain = errors.unbind(1)
    assert ours.mean() < 0.02
    assert (ours - plain).mean() < 3 * (ours - plain).std() / len(errors) ** 0.5


def _errors_in_bf16(seed, width, heads, K1, T, B, predict) -> tuple[float, float]:
    """How far a network of random weights is from float32, with kernels and without."""
    torch.manual_seed(seed)
    net = RetNet(width, 3, heads, 4, 0.0).eval()
    for layer in net.layers:
        nn.init.normal_(layer.qkvg.bias)
    x, u = torch.randn(B, T, K1, width), torch.randn(K1 - 1, width)
    *_, past = net.pop(x, u, net.initial_state(B))  # a state that is not empty

    def outcome(dtype: torch.dtype, kernels: bool) -> list[torch.Tensor]:
        choose(net, kernels=kernels)
        with autocast(dtype):
            y, y_next, state = net.pop(x.to(dtype), u, past, predict, tail=1)
        assert state.position == past.position + T * K1
        return [t.float() for t in (y, y_next, state.S) if t.numel()]

    exact = outcome(torch.float32, kernels=False)
    ours, plain = (apart(outcome(torch.bfloat16, kernels=k), exact) for k in (True, False))
    return ours, plain


@torch.no_grad()
def test_dropout_acts_without_a_gradient_too():
    torch.manual_seed(0)
    net = choose(RetNet(64, 1, 2, 4, 0.5), kernels=True)
    x, u = torch.randn(2, 1, 5, 64).bfloat16(), torch.randn(4, 64)
    with autocast(torch.bfloat16):
        once, again = (net.pop(x, u, net.initial_state(2))[0] for _ in range(2))
        assert not torch.equal(once, again)
        assert 0.3 < (fused._swish(x, net.layers[0].ffn_in, 0.5) == 0).float().mean() < 0.7


@torch.no_grad()
def test_tiles_leave_the_thread_as_it_was():
    """The library's own products use the same tiles; a product before and after must not differ."""
    torch.manual_seed(0)
    a, net = torch.randn(200, 96).bfloat16(), choose(RetNet(64, 1, 2, 4, 0.0).eval(), kernels=True)
    before = a @ a.T
    for _ in range(3):
        with autocast(torch.bfloat16):
            net.pop(torch.randn(2, 1, 5, 64).bfloat16(), torch.randn(4, 64), net.initial_state(2))
        assert torch.equal(a @ a.T, before)


@pytest.mark.parametrize(("T", "predict"), [(3, slice(None)), (3, slice(1, None)), (4, slice(1, 3)), (1, slice(0, 0))])
def test_the_gradient_written_out_is_that_of_nn(T, predict):
    P = len(range(T)[predict])
    inputs = [torch.randn((T + P) * 2, 2, 5, 4, dtype=torch.float64).requires_grad_() for _ in range(3)]
    S, gamma = torch.randn(2, 2, 4, 4, dtype=torch.float64).requires_grad_(), decay_rates(2)

    def outcome(form) -> list[torch.Tensor]:
        y, leaving = form(*inputs, gamma, S, T, predict)
        return [y, leaving, *torch.autograd.grad(y.sin().sum() + (3 * leaving).sin().sum(), (*inputs, S))]

    ours, plain = outcome(written.chunkwise), outcome(retnet.chunkwise)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(ours, plain, strict=True))
