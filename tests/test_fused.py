"""The fused layers, as they are installed, against nn's own, whose parameters they share."""

import pytest
import torch
import torch.nn.functional as F
from comparing import apart, autocast, choose, draws, results, rounding
from torch import nn

from tokendream.agent.per_part import NEVER
from tokendream.kernels.cpu import build, layers
from tokendream.nn.conv import Down, NormSwish, Up
from tokendream.nn.retnet import RetNetLayer
from tokendream.nn.rotary import Rotary, rotation
from tokendream.nn.sampling import Sampler
from tokendream.nn.transformer import TransformerLayer
from tokendream.tokenizers.perceptual import read_lpips

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=f"no kernels here: {build.why_not()}")

T, B, L, D, H = 3, 2, 7, 32, 4
X = (T * B, L, D)


def random_affine(module: nn.Module) -> nn.Module:
    """All biases and the scales of norms drawn."""
    for part in module.modules():
        if isinstance(part, nn.LayerNorm | nn.GroupNorm):
            nn.init.normal_(part.weight)
        if isinstance(part, nn.LayerNorm | nn.GroupNorm | nn.Linear):
            nn.init.normal_(part.bias)
    return module


def tables() -> Rotary:
    shape = (T, H, L, D // H // 2)
    return Rotary(*(torch.polar(0.5 + torch.rand(shape), 6 * torch.rand(shape)) for _ in range(2)))


def heads(q, k, v):
    """A form of retention that shows what it is given, all in one tensor."""
    return q + 2 * k + 4 * v, (q, k, v)


def retain(x):
    gated, qkv = LAYER.retain(x, ROTARY, heads)
    return (*qkv, gated)


def attend(q, k, v):
    return q + 2 * k + 4 * v


LAYER, NARROW, TRANSFORMER = RetNetLayer(D, H, 4, 0.0), RetNetLayer(24, H, 4, 0.0), TransformerLayer(D, H, 4, 0.0)
NORM, ROTARY = nn.LayerNorm(D, eps=1e-6), tables()
IMAGES, SWISH, DOWN, UP, DISTANCE = (3, 48, 5, 7), NormSwish(48), Down(48), Up(48), read_lpips("alexnet")
STRIDE_4, STRIDE_1 = DISTANCE.convolutions[:2]
HEAD = torch.rand(48)
for module in (LAYER, NARROW, TRANSFORMER, NORM, SWISH, DOWN, UP):
    random_affine(module)

LAYERS = {
    "norm": (lambda x: (NORM(x),), [X], NORM),
    "retention": (retain, [X], LAYER),
    "ffn": (lambda x, y: (LAYER.ffn(x, y),), [X, X], LAYER),
    "ffn of many rows": (lambda x, y: (LAYER.ffn(x, y),), [(1, 300, D), (1, 300, D)], LAYER),
    "ffn that fills no tile": (lambda x, y: (NARROW.ffn(x, y),), [(6, L, 24), (6, L, 24)], NARROW),
    "transformer": (lambda x: (TRANSFORMER(x, attend),), [X], TRANSFORMER),
    "norm, swish": (lambda x: (SWISH(x),), [IMAGES], SWISH),
    "down": (lambda x: (DOWN(x),), [IMAGES], DOWN),
    "up": (lambda x: (UP(x),), [IMAGES], UP),
    "frozen convolution": (lambda x: (STRIDE_1(x),), [(3, 64, 5, 7)], STRIDE_1),
    "frozen convolution of stride 4": (lambda x: (STRIDE_4(x),), [(3, 3, 35, 40)], STRIDE_4),
    "distance": (lambda x: (DISTANCE.unit_distance(torch.ones_like(x).cumsum(1), x, HEAD),), [IMAGES], DISTANCE),
}


def of(name: str, dtype: torch.dtype, *, kernels: bool) -> list[torch.Tensor]:
    run, shapes, module = LAYERS[name]
    return results(run, shapes, choose(module, kernels=kernels), dtype)


@pytest.mark.parametrize("name", LAYERS)
def test_in_float32_a_fused_layer_is_the_plain_one(name):
    bound = 3e-6 if name.startswith("frozen") else 1e-6  # sums of 4,800 products in another order
    assert apart(of(name, torch.float32, kernels=True), of(name, torch.float32, kernels=False)) < bound


@pytest.mark.parametrize("name", LAYERS)
def test_in_bf16_a_fused_layer_is_as_near_to_float32_as_the_plain_one(name):
    run, shapes, module = LAYERS[name]
    exact = draws(run, shapes, choose(module, kernels=False), torch.float32)
    rough = (draws(run, shapes, choose(module, kernels=k), torch.bfloat16) for k in (True, False))
    ours, plain = (rounding(each, exact) for each in rough)
    assert ours < 0.01
    assert ours < 1.2 * plain


def test_rows_of_any_width_and_strides_are_taken():
    """Widths that fill no vector, and tensors that are slices of others."""
    for width in (2, 6, 50):
        layer = RetNetLayer(width, 1, 4, 0.0)
        x, y = (torch.randn(1, 5, 3 * width)[..., width : 2 * width] for _ in range(2))
        got = [choose(layer, kernels=kernels).ffn(x, y) for kernels in (True, False)]
        assert torch.allclose(*got, atol=1e-6)


def test_swish_in_bf16_is_right_to_the_last_bit_but_one_for_every_number():
    """All 65,536 of them; what is not finite is not made finite."""
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    y = layers.swish(x[None], torch.zeros(len(x)), 0.0)[0]
    assert torch.equal(y.isfinite(), x.isfinite())
    assert y[x.isnan()].isnan().all()
    there = x.isfinite()
    exact = x[there].double() * torch.sigmoid(x[there].double())
    error = (y[there].double() - exact).abs()
    assert (error <= exact.abs() * 2**-8 * 1.1 + x[there].double().abs() * 1e-36 + 1e-37).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_a_draw_is_the_plain_draw_of_the_same_number(dtype, temperature):
    """Up to numbers within rounding of a border; whatever the width, and with extreme logits."""
    torch.manual_seed(0)
    ours, plain = (choose(Sampler(), kernels=kernels) for kernels in (True, False))
    for width in (1, 2, 15, 16, 17, 512):
        logits, u = (4 * torch.randn(3000, width)).to(dtype), torch.rand(3000, 1)
        same = ours.invert(logits, u, temperature) == plain.invert(logits, u, temperature)
        assert same.float().mean() > 0.999
    sure = torch.full((4, 40), -1e4, dtype=dtype)
    sure[torch.arange(4), torch.tensor([0, 15, 16, 39])] = 1e4
    for u in (0.0, 0.5, 1 - 2**-24):
        drawn = ours.invert(sure, torch.full((4, 1), u), temperature)
        assert drawn.tolist() == [0, 15, 16, 39]


def test_numbers_to_draw_by_may_lie_anyhow():
    logits, u = torch.randn(4, 16, 32), torch.rand(4, 1, 1)
    dense = layers.sample(logits, u.expand(4, 16, 1).contiguous(), 1.0)
    assert torch.equal(layers.sample(logits, u.expand(4, 16, 1), 1.0), dense)
    assert torch.equal(layers.sample(logits, u.expand(4, 16, 1).double(), 1.0), dense)


@pytest.mark.parametrize(("possible", "width"), [(3, 5), (4, 256), (125, 512), (500, 512)])
def test_the_largest_number_draws_nothing_that_cannot_be(possible, width):
    """Heads of several parts are filled up to the widest one."""
    torch.manual_seed(0)
    logits, u = 2 * torch.randn(20_000, width), torch.full((20_000, 1), 1 - 2**-24)
    logits[:, possible:] = NEVER
    for kernels in (True, False):
        assert choose(Sampler(), kernels=kernels).invert(logits, u, 1.0).max() < possible


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_keeps_its_rate_and_the_gradient_its_mask(p):
    n = 1 << 20
    x, bias = torch.ones(n // 256, 256, requires_grad=True), torch.zeros(256)
    torch.manual_seed(3)
    y = layers.add_norm(torch.zeros_like(x), x, bias, None, None, p)[0]
    dropped = (y == 0).double()
    assert abs(dropped.mean() - p) < 4 * (p * (1 - p) / n) ** 0.5
    for lag in (1, 2, 127, 128, 256, 1024):  # a word of the hash serves two numbers of a row, 128 apart
        flat = dropped.flatten()
        assert abs((flat[lag:] - p).mul(flat[:-lag] - p).mean()) < 4 * p * (1 - p) / n**0.5
    assert torch.allclose(y[y != 0], torch.tensor(1 / (1 - p)))
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], y)  # the input is 1
    assert not torch.equal(layers.add_norm(torch.zeros_like(x), x, bias, None, None, p)[0], y)
    torch.manual_seed(3)
    assert torch.equal(layers.add_norm(torch.zeros_like(x), x, bias, None, None, p)[0], y)


def test_each_op_draws_the_same_mask_on_its_way_back():
    """A gradient where an output was kept, none where it was dropped, against the same draw differentiated by hand."""
    torch.manual_seed(0)
    x = torch.randn(40, 64, requires_grad=True)
    swish = layers.swish(x, torch.zeros(64), 0.3)
    assert torch.equal(torch.autograd.grad(swish.sum(), x)[0] == 0, swish == 0)
    branch = torch.randn(40, 64, requires_grad=True)
    zero, one = torch.zeros(64), torch.ones(64)
    total, normed = layers.add_norm(torch.zeros(40, 64), branch, zero, one, zero, 0.3)
    grad = torch.autograd.grad((normed * torch.randn(40, 64)).sum(), branch)[0]
    assert torch.equal(grad == 0, total == 0)
    assert 0.25 < (total == 0).float().mean() < 0.35


def test_dropout_on_the_retention_comes_before_its_norm():
    """The mask shows in the gradient of y, which is 0 where y was dropped: with it, all is what PyTorch makes of it."""
    p, w = 0.3, torch.randn(2, 5, 64)
    y, gate = torch.randn(2, 4, 5, 16, requires_grad=True), torch.randn(2, 5, 64, requires_grad=True)
    gated = layers.gated_norm(y, gate, p)
    grads = torch.autograd.grad((gated * w).sum(), (y, gate))
    kept = grads[0] != 0
    assert 0.2 < 1 - kept.float().mean() < 0.4
    normed = F.layer_norm(y * kept / (1 - p), (16,), eps=1e-6).transpose(1, 2).flatten(2)
    expected = F.silu(gate) * normed
    torch.testing.assert_close(gated, expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(grads, torch.autograd.grad((expected * w).sum(), (y, gate)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("site", ["after the retention", "inside the feed-forward network", "behind it"])
def test_each_dropout_of_a_layer_draws_the_same_mask_on_its_way_back(site):
    """One dropout made visible at a time: what it lets through is the output, and the gradient of a bias of ones."""
    torch.manual_seed(0)
    n, p, grad = 64, 0.3, torch.randn(1, 64, D)
    layer = choose(RetNetLayer(D, H, 4, p), kernels=True)
    for linear in (layer.out, layer.ffn_in, layer.ffn_out):
        nn.init.zeros_(linear.weight)
    inside = site == "inside the feed-forward network"
    bias = {"after the retention": layer.out, "behind it": layer.ffn_out}.get(site, layer.ffn_in).bias
    nn.init.constant_(bias, 8.0)  # swish(8) = 8, and its derivative is 1, to 2e-2
    if inside:
        nn.init.eye_(layer.ffn_out.weight)
    x, y = torch.zeros(2, 1, n, D).bfloat16()
    with autocast(torch.bfloat16):
        got, again = layer.ffn(x, y).float(), layer.ffn(x, y).float()
    rate = 1 - (1 - p) ** (2 if inside else 1)  # what leaves the network passes the last one too
    dropped = (got == 0).float().mean().item()
    assert abs(dropped - rate) < 4 * (rate * (1 - rate) / got.numel()) ** 0.5
    assert not torch.equal(got, again)
    of_bias = torch.autograd.grad((got * grad).sum(), bias)[0]
    assert torch.allclose(of_bias[:D], (grad * got).sum((0, 1)) / 8, atol=0.3, rtol=0.03)
    wrong = (grad * again).sum((0, 1)) / 8  # another mask would not do
    assert not torch.allclose(of_bias[:D], wrong, atol=0.3, rtol=0.03)


def test_the_number_of_threads_changes_nothing_but_the_order_of_sums():
    before = torch.get_num_threads()
    try:
        got = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            got.append([of(name, torch.bfloat16, kernels=True) for name in LAYERS])
    finally:
        torch.set_num_threads(before)
    for (name, (_, shapes, _)), one, two in zip(LAYERS.items(), *got, strict=True):
        whole = (4 if name == "retention" else 1) + len(shapes)  # the rest are sums over rows
        assert all(torch.equal(a, b) for a, b in list(zip(one, two, strict=True))[:whole]), name
        assert apart(one, two) < 1e-2


@pytest.mark.parametrize("kernels", [True, False])
def test_group_norm_of_a_picture_that_hardly_differs(kernels):
    """A large mean and a small deviation: the sums of squares must not eat each other up."""
    x = 300 + 0.1 * torch.randn(2, 48, 9, 9)
    exact = NormSwish(48).double()(x.double())
    assert torch.allclose(choose(NormSwish(48), kernels=kernels)(x).double(), exact, atol=2e-3)


def test_a_black_pixel_has_a_distance_and_no_gradient():
    """All its features are zero behind dead relus."""
    choose(DISTANCE, kernels=True)
    b = torch.zeros(1, 48, 2, 2, requires_grad=True)
    distance = DISTANCE.unit_distance(torch.rand(1, 48, 2, 2), b, HEAD)
    assert distance.isfinite().all()
    assert torch.autograd.grad(distance.sum(), b)[0].isfinite().all()
    assert DISTANCE.unit_distance(torch.zeros(1, 48, 2, 2), b, HEAD).item() == 0


def test_the_gradient_of_a_sum_of_distances_is_the_plain_one():
    """Autograd hands it over as one number for all images, expanded."""
    a, b = torch.rand(2, 3, 48, 2, 2).unbind(0)
    b.requires_grad_()
    own, plain = (
        torch.autograd.grad(choose(DISTANCE, kernels=kernels).unit_distance(a, b, HEAD).sum(), b)[0]
        for kernels in (True, False)
    )
    assert torch.allclose(own, plain, atol=1e-7)


def test_plain_is_taken_where_a_kernel_does_not_fit():
    """Double precision, parameters that are not float32, and tables in double precision."""
    x = torch.randn(X)
    double = RetNetLayer(D, H, 4, 0.0).double()
    assert choose(double, kernels=True).ffn(x.double(), x.double()).dtype is torch.float64
    half = RetNetLayer(D, H, 4, 0.0).bfloat16()
    a, b = (choose(half, kernels=k).ffn(x.bfloat16(), x.bfloat16()) for k in (True, False))
    assert torch.equal(a, b)
    table = rotation(torch.arange(T * L).view(T, L), D // H)[:, None].expand(-1, H, -1, -1)
    a, b = (choose(LAYER, kernels=k).retain(x, Rotary(table, table), heads)[0] for k in (True, False))
    assert apart([a], [b]) < 1e-6
