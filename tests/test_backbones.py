"""What every sequence backbone promises, in float64 and with awkward sizes: its forms agree, POP is its definition."""

import itertools
from functools import partial

import pytest
import torch

from tokendream.agent.backbones import BACKBONES
from tokendream.nn.backbone import State
from tokendream.nn.retention import window_rates
from tokendream.nn.retnet import RetNet
from tokendream.nn.transformer import Transformer

B, T, K, D, LAYERS, HEADS = 2, 5, 6, 32, 2, 4
K1 = K + 1


WHERE = torch.tensor([[0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0], [1, 1, 0], [2, 1, 0], [2, 1, 1]])
"""Places of a block of 3 x 2 tokens and an action."""

KINDS = {
    **BACKBONES,
    "RetNet in a grid, windows": partial(RetNet, places=WHERE, gamma=window_rates(HEADS, K1, 1.0, 4.0)),
    "Transformer in a grid": partial(Transformer, places=WHERE),
}


@pytest.fixture(params=KINDS)
def model(request):
    torch.manual_seed(3)
    return KINDS[request.param](D, LAYERS, HEADS, 4, 0.0).double().eval()


@pytest.fixture
def x():
    return torch.randn(B, T, K1, D, dtype=torch.float64)


@pytest.fixture
def u():
    return torch.randn(K, D, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def past(model):
    """A state that has seen a block."""
    with torch.no_grad():
        return chunk(model, torch.randn(B, K1, D, dtype=torch.float64), model.initial_state(B))[1]


def chunk(model, x, state):
    """Tokens of no block."""
    y, state = model.absorb(x[:, None], state)
    return y[:, 0], state


def close(a, b, atol=1e-11):
    return torch.allclose(a, b, atol=atol, rtol=0)


def same_state(model, a: State, b: State) -> bool:
    """Whether whatever comes next is told the same by both."""
    x = torch.randn(B, 3, D, dtype=torch.float64)
    return close(chunk(model, x, a)[0], chunk(model, x, b)[0])


def test_an_indivisible_width_is_refused(model):
    with pytest.raises(AssertionError, match="multiple of 8"):
        type(model)(30, 1, 4, 4, 0.0)


@pytest.mark.parametrize("seed", range(4))
def test_forward_equals_steps_equals_any_chunks(model, x, seed):
    x = x.flatten(1, 2).requires_grad_()
    length = x.shape[1]
    weight = torch.randn_like(x)
    whole = model(x)
    state, steps = model.initial_state(B), []
    for n in range(length):
        y, state = model.step(x[:, n], state)
        steps.append(y)
    cuts = sorted(torch.randperm(length - 1, generator=torch.Generator().manual_seed(seed))[: 2 + seed].add(1).tolist())
    chunk_state, chunks = model.initial_state(B), []
    for a, b in itertools.pairwise((0, *cuts, length)):
        y, chunk_state = chunk(model, x[:, a:b], chunk_state)
        chunks.append(y)
    results = [whole, torch.stack(steps, 1), torch.cat(chunks, 1)]
    grads = [torch.autograd.grad((y * weight).sum(), [x, *model.parameters()]) for y in results]
    assert close(results[0], results[1])
    assert close(results[0], results[2])
    for other in grads[1:]:
        assert all(close(a, b, 1e-9) for a, b in zip(grads[0], other, strict=True))
    assert same_state(model, state, chunk_state)


def test_pop_is_its_definition(model, x, u):
    """y_next[t] = append u to the first t+1 blocks and run the plain parallel form; gradients too."""
    y, y_next, _ = model.pop(x, u, model.initial_state(B))
    assert close(y.flatten(1, 2), model(x.flatten(1, 2)))
    weight = torch.randn(B, T, K, D, dtype=torch.float64)
    appended = []
    for t in range(T):
        history = x[:, : t + 1].flatten(1, 2)
        appended.append(model(torch.cat((history, u.expand(B, K, D)), dim=1))[:, -K:])
    defined = torch.stack(appended, dim=1)
    assert close(y_next, defined)
    wanted = [u, *model.parameters()]
    ours = torch.autograd.grad((y_next * weight).sum(), wanted)
    theirs = torch.autograd.grad((defined * weight).sum(), wanted)
    assert all(close(a, b, 1e-9) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("predict", [slice(None), slice(1, -1), slice(3, 4)])
def test_pop_of_all_blocks_is_pop_block_by_block(model, x, u, past, predict):
    state = past
    y, y_next, after = model.pop(x, u, state, predict)
    for t in range(T):
        y_t, next_t, state = model.pop(x[:, t : t + 1], u, state)
        assert close(y_t[:, 0], y[:, t])
        if t in range(T)[predict]:
            assert close(next_t[:, 0], y_next[:, t - predict.indices(T)[0]])
    assert same_state(model, after, state)


@pytest.mark.parametrize("tail", [1, 3, K1])
def test_a_tail_of_pop_is_the_end_of_it(model, x, u, past, tail):
    y, y_next, after = model.pop(x, u, past, slice(1, -1))
    y_tail, next_tail, after_tail = model.pop(x, u, past, slice(1, -1), tail=tail)
    assert close(y_tail, y[:, :, -tail:])
    assert close(next_tail, y_next)
    assert same_state(model, after_tail, after)
    wanted = [u, *model.parameters()]
    ours = torch.autograd.grad(y_tail.square().sum() + next_tail.sum(), wanted)
    theirs = torch.autograd.grad(y[:, :, -tail:].square().sum() + y_next.sum(), wanted)
    assert all(close(a, b, 1e-9) for a, b in zip(ours, theirs, strict=True))


def test_the_prediction_stream_leaves_no_trace(model, x, u):
    _, _, with_u = model.pop(x, u, model.initial_state(B))
    _, _, without = model.pop(x, u.detach() * 7 + 1, model.initial_state(B), slice(0, 0))
    assert same_state(model, with_u, without)


def test_causality_is_exact(model, x, u):
    """Noise in block 3 (a constant shift would hide behind LayerNorm) moves nothing before it, to the bit."""
    noisy = x.clone()
    noisy[:, 3] += torch.randn(B, K1, D, dtype=torch.float64)
    y, y_next, _ = model.pop(x, u, model.initial_state(B))
    z, z_next, _ = model.pop(noisy, u, model.initial_state(B))
    assert torch.equal(y[:, :3], z[:, :3])
    assert torch.equal(y_next[:, :3], z_next[:, :3])
    assert ((y[:, 3:] - z[:, 3:]).abs().amax((0, 2, 3)) > 1e-3).all()
    assert ((y_next[:, 3:] - z_next[:, 3:]).abs().amax((0, 2, 3)) > 1e-3).all()
    late = u.detach().clone()
    late[4] += torch.randn(D, dtype=torch.float64)
    _, w_next, _ = model.pop(x, late, model.initial_state(B))
    assert torch.equal(w_next[:, :, :4], y_next[:, :, :4])
    assert not close(w_next[:, :, 4:], y_next[:, :, 4:], 1e-3)


@torch.no_grad()
def test_a_state_stays_what_it_is_whoever_continues_it(model, x, u, past):
    """Two futures of one moment, dreamed in turn, are each what it is alone."""
    _, _, past = model.pop(x[:, :1], u, past)  # a Transformer's cache has room behind it from here on
    futures = (x[:, :3], x[:, 2:])
    alone = [model.pop(frames, u, past) for frames in futures]
    states = [past, past]
    for t in range(3):
        for i, frames in enumerate(futures):
            y, y_next, states[i] = model.pop(frames[:, t : t + 1], u, states[i])
            assert close(y[:, 0], alone[i][0][:, t])
            assert close(y_next[:, 0], alone[i][1][:, t])


def test_forgetting_by_mask(model, x, past):
    """Who has forgotten goes on as from no past at that position, the others as if nothing had been."""
    forgotten = past.keep(torch.tensor([True, False]))
    y, _ = chunk(model, x[:, 0], forgotten)
    whole, _ = chunk(model, x[:, 0], past)
    fresh = model(x[:, 0])  # both rotate by position, so that only distances count
    assert close(y[0], whole[0])
    assert close(y[1], fresh[1])
    assert not close(whole[1], fresh[1], 1e-3)


def test_one_past_as_that_of_many(model, x, past):
    only = chunk(model, x[:1, 0], model.initial_state(1))[1]
    many = chunk(model, x[:, 1], only.take(torch.zeros(B, dtype=torch.int64)))[0]
    assert close(many[:1], chunk(model, x[:1, 1], only)[0])


def test_one_past_out_of_many(model, x, past):
    many = chunk(model, x[:, 0], past)[0]
    assert close(chunk(model, x[1:2, 0], past.take(torch.tensor([1])))[0], many[1:2])


@pytest.mark.parametrize("tail", [None, 2])
def test_absorbing_is_pop_without_predictions(model, x, u, past, tail):
    y, state = model.absorb(x, past, tail)
    expected, _, after = model.pop(x, u, past, tail=tail)
    assert close(y, expected)
    assert same_state(model, state, after)


def test_dropout_acts_in_training_only(model, x, u):
    torch.manual_seed(0)
    model = type(model)(D, 1, HEADS, 4, 0.5).double()
    a, b = (model.pop(x, u, model.initial_state(B))[0] for _ in range(2))
    assert not torch.equal(a, b)
    model.eval()
    a, b = (model.pop(x, u, model.initial_state(B))[0] for _ in range(2))
    assert torch.equal(a, b)
