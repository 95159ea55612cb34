import itertools

import pytest
import torch

from tokendream.nn.retnet import RetNet, RetNetState

B, T, K, D, LAYERS, HEADS = 2, 5, 6, 32, 2, 4
K1 = K + 1


def net(dtype=torch.float64, layers=LAYERS, width=D):
    torch.manual_seed(3)
    return RetNet(width, layers, HEADS).to(dtype).eval()


@pytest.fixture
def model():
    return net()


@pytest.fixture
def x():
    return torch.randn(B, T, K1, D, dtype=torch.float64)


@pytest.fixture
def u():
    return torch.randn(K, D, dtype=torch.float64, requires_grad=True)


def close(a, b, atol=1e-11):
    return torch.allclose(a, b, atol=atol, rtol=0)


def same_state(a: RetNetState, b: RetNetState) -> bool:
    return close(a.S, b.S) and int(a.position) == int(b.position)


def test_a_paper_layer_has_the_published_size():
    assert sum(p.numel() for p in RetNet(256, 1, 4).parameters()) == 855_552


def test_an_indivisible_width_is_refused():
    with pytest.raises(ValueError, match="multiple of 8"):
        RetNet(30, 1, 4)


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
        y, chunk_state = model.chunk(x[:, a:b], chunk_state)
        chunks.append(y)
    results = [whole, torch.stack(steps, 1), torch.cat(chunks, 1)]
    grads = [torch.autograd.grad((y * weight).sum(), [x, *model.parameters()]) for y in results]
    assert close(results[0], results[1])
    assert close(results[0], results[2])
    for other in grads[1:]:
        assert all(close(a, b, 1e-9) for a, b in zip(grads[0], other, strict=True))
    assert same_state(state, chunk_state)


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
def test_pop_of_all_blocks_is_pop_block_by_block(model, x, u, predict):
    _, state = model.chunk(torch.randn(B, 4, D, dtype=torch.float64), model.initial_state(B))
    y, y_next, after = model.pop(x, u, state, predict)
    for t in range(T):
        y_t, next_t, state = model.pop(x[:, t : t + 1], u, state)
        assert close(y_t[:, 0], y[:, t])
        if t in range(T)[predict]:
            assert close(next_t[:, 0], y_next[:, t - predict.indices(T)[0]])
    assert same_state(after, state)


@pytest.mark.parametrize("tail", [1, 3, K1])
def test_a_tail_of_pop_is_the_end_of_it(model, x, u, tail):
    with torch.no_grad():
        _, state = model.chunk(torch.randn(B, 4, D, dtype=torch.float64), model.initial_state(B))
    y, y_next, after = model.pop(x, u, state, slice(1, -1))
    y_tail, next_tail, after_tail = model.pop(x, u, state, slice(1, -1), tail=tail)
    assert close(y_tail, y[:, :, -tail:])
    assert close(next_tail, y_next)
    assert same_state(after_tail, after)
    wanted = [u, *model.parameters()]
    ours = torch.autograd.grad(y_tail.square().sum() + next_tail.sum(), wanted)
    theirs = torch.autograd.grad(y[:, :, -tail:].square().sum() + y_next.sum(), wanted)
    assert all(close(a, b, 1e-9) for a, b in zip(ours, theirs, strict=True))


def test_the_prediction_stream_leaves_no_trace(model, x, u):
    _, _, with_u = model.pop(x, u, model.initial_state(B))
    _, _, without = model.pop(x, u.detach() * 7 + 1, model.initial_state(B), slice(0, 0))
    assert same_state(with_u, without)


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


def test_forgetting_by_mask(model, x, u):
    _, _, state = model.pop(x, u, model.initial_state(B))
    kept = state.keep(torch.tensor([True, False]))
    assert torch.equal(kept.S[:, 0], state.S[:, 0])
    assert not kept.S[:, 1].any()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-5), (torch.bfloat16, 3e-2)])
def test_low_precision_stays_near_float64_over_650_tokens_and_5_layers(dtype, bound):
    """Relative error ‖y - y64‖ / ‖y64‖ of pop over 10 blocks of 65 tokens at the paper's depth."""
    width, blocks, k = 128, 10, 64
    exact = net(layers=5, width=width)
    x = torch.randn(1, blocks, k + 1, width)
    u = torch.randn(k, width)
    with torch.no_grad():
        y64, next64, _ = exact.pop(x.double(), u.double(), exact.initial_state(1))
        low = net(torch.float32, layers=5, width=width)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            y, y_next, state = low.pop(x.to(dtype), u.to(dtype), low.initial_state(1))
    assert state.S.dtype == torch.float32
    for ours, reference in ((y, y64), (y_next, next64)):
        assert float((ours.double() - reference).norm() / reference.norm()) < bound


def test_decays_survive_a_change_of_precision():
    assert torch.equal(net(torch.bfloat16).gamma, net().gamma)


def test_dropout_acts_in_training_only(x, u):
    torch.manual_seed(0)
    model = RetNet(D, 1, HEADS, dropout=0.5).double()
    a, b = (model.pop(x, u, model.initial_state(B))[0] for _ in range(2))
    assert not torch.equal(a, b)
    model.eval()
    a, b = (model.pop(x, u, model.initial_state(B))[0] for _ in range(2))
    assert torch.equal(a, b)
