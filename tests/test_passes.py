"""The compiled passes against the lines of PyTorch that say what they compute, and where they come from."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tokendream.kernels.cpu import build, layers
from tokendream.nn import passes, retention
from tokendream.nn.retnet import RetNet

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=f"no kernels here: {build.why_not()}")

T, B, L, D, H = 3, 2, 7, 32, 4
X = (T * B, L, D)


def linear(inputs: int, outputs: int) -> nn.Linear:
    made = nn.Linear(inputs, outputs)
    nn.init.normal_(made.bias)
    return made


def turns() -> tuple[retention.Turns, ...]:
    shape = (T, H, L, D // H // 2)
    return tuple(retention.Turns.of(torch.polar(0.5 + torch.rand(shape), 6 * torch.rand(shape))) for _ in range(2))


QKVG, OUT, WIDE, NORM, TURNS = linear(D, 4 * D), linear(D, D), linear(D, 4 * D), nn.LayerNorm(D), turns()
FFN = nn.ModuleList([OUT, NORM, WIDE, linear(4 * D, D)])
GROUPS, HEAD = nn.GroupNorm(8, 48, eps=1e-6), torch.rand(48)
IMAGES = (3, 48, 5, 7)
for norm in (NORM, GROUPS):
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)

PASSES = {
    "split_heads": (lambda x: passes.split_heads(x, QKVG, *TURNS), [X], QKVG),
    "project": (lambda x: passes.project(x, NORM, QKVG, *TURNS), [X], nn.ModuleList([NORM, QKVG])),
    "gated_norm": (lambda y, gate: (passes.gated_norm(y, gate, 0.0),), [(T * B, H, L, D // H), X], None),
    "normed": (lambda x: (passes.normed(x, NORM),), [X], NORM),
    "add_norm": (lambda x, y: passes.add_norm(x, y, OUT, NORM, 0.0), [X, X], nn.ModuleList([OUT, NORM])),
    "add": (lambda x, y: (passes.add(x, y, OUT, 0.0),), [X, X], OUT),
    "swish": (lambda x: (passes.swish(x, WIDE, 0.0),), [X], WIDE),
    "feed": (lambda x, y: (passes.feed(x, y, *FFN, 0.0),), [X, X], FFN),
    "feed of many rows": (lambda x, y: (passes.feed(x, y, *FFN, 0.0),), [(300, D), (300, D)], FFN),
    "norm_swish": (lambda x: (passes.norm_swish(x, GROUPS),), [IMAGES], GROUPS),
    "norm_swish, doubled": (lambda x: (passes.norm_swish(x, GROUPS, times=2),), [IMAGES], GROUPS),
    "norm_swish, with an edge": (lambda x: (passes.norm_swish(x, GROUPS, edge=1),), [IMAGES], GROUPS),
    "unit_distance": (lambda x: (passes.unit_distance(torch.ones_like(x).cumsum(1), x, HEAD),), [IMAGES], None),
}


def results(name: str, dtype: torch.dtype, *, kernels: bool) -> list[torch.Tensor]:
    """Outputs, then the gradients of all inputs and parameters, of a pass over large and small numbers."""
    run, shapes, module = PASSES[name]
    torch.manual_seed(1)
    inputs = [(3 * torch.randn(shape)).to(dtype).requires_grad_() for shape in shapes]
    wanted = inputs + (list(module.parameters()) if module else [])
    with passes.kernels(kernels), torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        outputs = run(*inputs)
    seen = [torch.randn(o.shape) for o in outputs]
    loss = sum((o.float() * s).sum() for o, s in zip(outputs, seen, strict=True))
    return [t.detach().float() for t in (*outputs, *torch.autograd.grad(loss, wanted))]


def apart(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """The largest distance of two tensors, as a share of their length."""
    assert [t.shape for t in a] == [t.shape for t in b]
    return max(float((p - q).norm() / q.norm()) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("name", PASSES)
def test_in_float32_a_pass_is_its_definition(name):
    assert apart(results(name, torch.float32, kernels=True), results(name, torch.float32, kernels=False)) < 1e-6


@pytest.mark.parametrize("name", PASSES)
def test_in_bf16_a_pass_is_as_near_to_float32_as_its_definition(name):
    exact = results(name, torch.float32, kernels=False)
    ours, plain = (apart(results(name, torch.bfloat16, kernels=k), exact) for k in (True, False))
    assert ours < 0.01
    assert ours < 1.2 * plain


def test_rows_of_any_width_and_strides_are_taken():
    """Widths that fill no vector, and tensors that are slices of others."""
    for width in (2, 6, 50):
        layer = linear(width, width)
        x, y = (torch.randn(5, 3 * width)[:, width : 2 * width] for _ in range(2))
        got = [t for kernels in (True, False) for t in (run(passes.add, x, y, layer, 0.0, kernels=kernels),)]
        assert torch.allclose(*got, atol=1e-6)


def run(function, *arguments, kernels: bool = True):
    with passes.kernels(kernels):
        return function(*arguments)


def test_swish_in_bf16_is_right_to_the_last_bit_but_one_for_every_number():
    """All 65,536 of them; what is not finite is not made finite."""
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    y = layers.Swish.apply(x[None], torch.zeros(len(x)), 0.0)[0]
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
    for width in (1, 2, 15, 16, 17, 512):
        logits, u = (4 * torch.randn(3000, width)).to(dtype), torch.rand(3000, 1)
        ours, plain = (run(passes.invert, logits, u, temperature, kernels=k) for k in (True, False))
        assert (ours == plain).float().mean() > 0.999
    sure = torch.full((4, 40), -1e4, dtype=dtype)
    sure[torch.arange(4), torch.tensor([0, 15, 16, 39])] = 1e4
    for u in (0.0, 0.5, 1 - 2**-24):
        drawn = run(passes.invert, sure, torch.full((4, 1), u), temperature)
        assert drawn.tolist() == [0, 15, 16, 39]


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_keeps_its_rate_and_the_gradient_its_mask(p):
    n = 1 << 20
    x, bias = torch.ones(n // 256, 256, requires_grad=True), torch.zeros(256)
    torch.manual_seed(3)
    y = layers.Add.apply(torch.zeros_like(x), x, bias, p)
    dropped = (y == 0).double()
    assert abs(dropped.mean() - p) < 4 * (p * (1 - p) / n) ** 0.5
    for lag in (1, 2, 127, 128, 256, 1024):  # a word of the hash serves two numbers of a row, 128 apart
        flat = dropped.flatten()
        assert abs((flat[lag:] - p).mul(flat[:-lag] - p).mean()) < 4 * p * (1 - p) / n**0.5
    assert torch.allclose(y[y != 0], torch.tensor(1 / (1 - p)))
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], y)  # the input is 1
    assert not torch.equal(layers.Add.apply(torch.zeros_like(x), x, bias, p), y)
    torch.manual_seed(3)
    assert torch.equal(layers.Add.apply(torch.zeros_like(x), x, bias, p), y)


def test_each_pass_draws_the_same_mask_on_its_way_back():
    """A gradient where an output was kept, none where it was dropped, against the same draw differentiated by hand."""
    torch.manual_seed(0)
    x = torch.randn(40, 64, requires_grad=True)
    swish = layers.Swish.apply(x, torch.zeros(64), 0.3)
    assert torch.equal(torch.autograd.grad(swish.sum(), x)[0] == 0, swish == 0)
    y, gate = torch.randn(2, 4, 5, 16, requires_grad=True), torch.randn(2, 5, 64, requires_grad=True)
    gated = layers.GatedNorm.apply(y, gate, 0.3)
    assert torch.equal(torch.autograd.grad(gated.sum(), gate)[0] == 0, gated == 0)
    branch = torch.randn(40, 64, requires_grad=True)
    zero, one = torch.zeros(64), torch.ones(64)
    total, normed = layers.AddNorm.apply(torch.zeros(40, 64), branch, zero, one, zero, 0.3)
    grad = torch.autograd.grad((normed * torch.randn(40, 64)).sum(), branch)[0]
    assert torch.equal(grad == 0, total == 0)
    assert 0.25 < (total == 0).float().mean() < 0.35


@pytest.mark.parametrize("site", ["after the retention", "inside the feed-forward network", "behind it"])
def test_each_dropout_of_a_layer_draws_the_same_mask_on_its_way_back(site):
    """One dropout made visible at a time: what it lets through is the output, and the gradient of a bias of ones."""
    torch.manual_seed(0)
    n, p, grad = 64, 0.3, torch.randn(64, D)
    out, norm, wide, back = linear(D, D), nn.LayerNorm(D), linear(D, 4 * D), linear(4 * D, D)
    for layer in (out, wide, back):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    bias = {"after the retention": out.bias, "inside the feed-forward network": wide.bias, "behind it": back.bias}[site]
    nn.init.constant_(bias, 8.0)  # swish(8) = 8, and its derivative is 1, to 2e-2
    if bias is wide.bias:
        nn.init.eye_(back.weight)
    x, y = torch.zeros(2, n, D).bfloat16()
    with passes.kernels(True), torch.autocast("cpu", torch.bfloat16):
        got = passes.feed(x, y, out, norm, wide, back, p).float()
        again = passes.feed(x, y, out, norm, wide, back, p).float()
    rate = 1 - (1 - p) ** (2 if bias is wide.bias else 1)  # what leaves the network passes the last one too
    dropped = (got == 0).float().mean().item()
    assert abs(dropped - rate) < 4 * (rate * (1 - rate) / got.numel()) ** 0.5
    assert not torch.equal(got, again)
    of_bias = torch.autograd.grad((got * grad).sum(), bias)[0]
    assert torch.allclose(of_bias[:D], (grad * got).sum(0) / 8, atol=0.3, rtol=0.03)
    wrong = (grad * again).sum(0) / 8  # another mask would not do
    assert not torch.allclose(of_bias[:D], wrong, atol=0.3, rtol=0.03)


def test_the_number_of_threads_changes_nothing_but_the_order_of_sums():
    before = torch.get_num_threads()
    try:
        got = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            got.append([results(name, torch.bfloat16, kernels=True) for name in PASSES])
    finally:
        torch.set_num_threads(before)
    for (name, (*_, module)), one, two in zip(PASSES.items(), *got, strict=True):
        summed = len(list(module.parameters())) if module else 0
        assert all(torch.equal(a, b) for a, b in list(zip(one, two, strict=True))[: len(one) - summed]), name
        assert apart(one, two) < 1e-2


@pytest.mark.parametrize("kernels", [True, False])
def test_group_norm_of_a_picture_that_hardly_differs(kernels):
    """A large mean and a small deviation: the sums of squares must not eat each other up."""
    x = 300 + 0.1 * torch.randn(2, 48, 9, 9)
    exact = passes.norm_swish(x.double(), nn.GroupNorm(8, 48, eps=1e-6).double())
    assert torch.allclose(
        run(passes.norm_swish, x, nn.GroupNorm(8, 48, eps=1e-6), kernels=kernels).double(), exact, atol=2e-3
    )


def test_a_black_pixel_has_a_distance_and_no_gradient():
    """All its features are zero behind dead relus."""
    b = torch.zeros(1, 48, 2, 2, requires_grad=True)
    distance = run(passes.unit_distance, torch.rand(1, 48, 2, 2), b, HEAD)
    assert distance.isfinite().all()
    assert torch.autograd.grad(distance.sum(), b)[0].isfinite().all()
    same = run(passes.unit_distance, torch.zeros(1, 48, 2, 2), b, HEAD)
    assert same.item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [64, 128])  # heads that fill no tile, and heads that do
def test_pop_with_kernels_is_pop(dtype, width):
    """Outputs, states and gradients of a whole network, over several blocks and layers."""
    torch.manual_seed(0)
    net, K1 = RetNet(width, 3, 4), 10
    x, u = torch.randn(2, 4, K1, width), torch.randn(K1 - 1, width)

    def outcome(kernels: bool) -> list[torch.Tensor]:
        net.zero_grad()
        with passes.kernels(kernels), torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
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
    """Without a gradient, on a processor with AMX; elsewhere these are the separate passes, and as near.

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
    net = RetNet(width, 3, heads).eval()
    for layer in net.layers:
        nn.init.normal_(layer.qkvg.bias)
    x, u = torch.randn(B, T, K1, width), torch.randn(K1 - 1, width)
    *_, past = net.pop(x, u, net.initial_state(B))  # a state that is not empty

    def outcome(dtype: torch.dtype, kernels: bool) -> list[torch.Tensor]:
        with passes.kernels(kernels), torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            y, y_next, state = net.pop(x.to(dtype), u, past, predict, tail=1)
        assert state.position == past.position + T * K1
        return [t.float() for t in (y, y_next, state.S) if t.numel()]

    exact = outcome(torch.float32, kernels=False)
    ours, plain = (apart(outcome(torch.bfloat16, kernels=k), exact) for k in (True, False))
    return ours, plain


@torch.no_grad()
def test_dropout_acts_without_a_gradient_too():
    torch.manual_seed(0)
    net, x, u = RetNet(64, 1, 2, dropout=0.5), torch.randn(2, 1, 5, 64).bfloat16(), torch.randn(4, 64)
    with passes.kernels(True), torch.autocast("cpu", torch.bfloat16):
        once, again = (net.pop(x, u, net.initial_state(2))[0] for _ in range(2))
        assert not torch.equal(once, again)
        assert 0.3 < (passes.swish(x, net.layers[0].ffn_in, 0.5) == 0).float().mean() < 0.7


@torch.no_grad()
def test_tiles_leave_the_thread_as_it_was():
    """The library's own products use the same tiles; a product before and after must not differ."""
    torch.manual_seed(0)
    a, net = torch.randn(200, 96).bfloat16(), RetNet(64, 1, 2).eval()
    before = a @ a.T
    for _ in range(3):
        with passes.kernels(True), torch.autocast("cpu", torch.bfloat16):
            net.pop(torch.randn(2, 1, 5, 64).bfloat16(), torch.randn(4, 64), net.initial_state(2))
        assert torch.equal(a @ a.T, before)


def test_plain_is_taken_where_a_kernel_does_not_fit():
    """Double precision, parameters that are not float32, and tables in double precision."""
    x = torch.randn(X, dtype=torch.float64)
    layer = linear(D, D).double()
    assert run(passes.swish, x, layer, 0.0).dtype is torch.float64
    half = linear(D, D).bfloat16()
    assert torch.equal(*(run(passes.swish, x.bfloat16(), half, 0.0, kernels=k) for k in (True, False)))
    q = retention.Turns.of(retention.rotation(torch.arange(T * L).view(T, L), D // H)[:, None].expand(-1, H, -1, -1))
    a, b = (run(passes.split_heads, x.float(), QKVG, q, q, kernels=k) for k in (True, False))
    assert all(torch.equal(p, r) for p, r in zip(a, b, strict=True))


def child(code: str, **env: str) -> str:
    """What a fresh process prints."""
    whole = {**os.environ, **env, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=whole, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SAY = "from tokendream.device import Compute; print(Compute.resolve('cpu').describe())"


def test_without_a_compiler_the_plain_passes_do_the_work(tmp_path):
    said = child(SAY, CXX=str(tmp_path / "none"), XDG_CACHE_HOME=str(tmp_path))
    assert "no kernels (" in said
    assert str(tmp_path / "none") in said
    broken = tmp_path / "broken"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "x.cpp:1: error: no such target" >&2\nexit 1\n')
    broken.chmod(0o755)
    assert "error: no such target" in child(SAY, CXX=str(broken), XDG_CACHE_HOME=str(tmp_path))
    assert list((tmp_path / "tokendream").glob("*")) == []


def test_the_compiled_library_is_made_once_and_a_damaged_one_anew(tmp_path):
    env = {"XDG_CACHE_HOME": str(tmp_path)}
    assert "own kernels" in child(SAY, **env)
    (made,) = (tmp_path / "tokendream").glob("*.so")
    written = made.stat().st_mtime_ns
    assert "own kernels" in child(SAY, **env)
    assert made.stat().st_mtime_ns == written
    made.write_bytes(made.read_bytes()[:100])
    assert "own kernels" in child(SAY, **env)
    assert made.stat().st_size > 1000


def test_off_means_off():
    code = f"from tokendream.kernels.cpu import build; {SAY.replace(chr(39) + 'cpu' + chr(39), 'kernels=False')}"
    assert "kernels" not in child(code + "; assert not build.library.cache_info().currsize")


COMPILED = """
import json, sys, torch
sys.path.insert(0, {here!r})
from test_passes import PASSES, apart, results
from tokendream.nn import passes
for name in {names}:
    exact, plain = (results(name, dtype, kernels=False) for dtype in (torch.float32, torch.bfloat16))
    with passes.compiled():
        made = [results(name, dtype, kernels=True) for dtype in (torch.float32, torch.bfloat16)]
    print(json.dumps([name, apart(made[0], exact), apart(made[1], exact), apart(plain, exact)]))
"""


@pytest.mark.slow
def test_what_torch_compiles_is_the_definition():
    """As for a GPU, and no worse in bf16; in another process, since checks of types are not to be compiled."""
    names = ["project", "gated_norm", "feed", "norm_swish, with an edge", "norm_swish, doubled", "unit_distance"]
    code = COMPILED.format(here=str(Path(__file__).parent), names=names)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [name for name, *_ in found] == names
    for name, in_float32, in_bf16, plain in found:
        assert 0 < in_float32 < 1e-6, name  # not 0: it was not the plain one that ran
        assert in_bf16 < 1.2 * plain, name
