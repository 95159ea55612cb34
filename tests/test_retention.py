import pytest
import torch

from tokendream.nn import retention as R
from tokendream.nn import retnet
from tokendream.nn.rotary import rotate, rotation

B, H, L, D = 2, 4, 35, 8


@pytest.fixture
def qkv():
    return tuple(torch.randn(B, H, L, D, dtype=torch.float64, requires_grad=True) for _ in range(3))


@pytest.fixture
def gamma():
    return R.decay_rates(H)


def empty():
    return torch.zeros(B, H, D, D, dtype=torch.float64)


def chunkwise(q, k, v, gamma, S):
    """Parallel inside a chunk, the state carried in and out: one block without predictions."""
    decay, growth = (f[:, :, None] for f in R.decay_scaling(gamma, q.shape[2]))
    return retnet.chunkwise(q * decay, k * growth, v, gamma, S, 1, slice(0, 0))


def ragged(cuts, q, k, v, gamma, form=chunkwise):
    S, out = empty(), []
    for a, b in zip((0, *cuts), (*cuts, L), strict=True):
        y, S = form(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], gamma, S)
        out.append(y)
    return torch.cat(out, dim=2), S


def attend(q, k, v, S):
    """Outputs of a chunk that enters with state S, q and k scaled: the definition that `chunkwise` is held to."""
    return (q @ k.mT).tril() @ v + q @ S


def absorb(k, v, gamma, S):
    """The state after it."""
    return (gamma ** k.shape[2])[:, None, None] * (S + k.mT @ v)


def test_decays_are_the_published_ones(gamma):
    assert torch.allclose(gamma, torch.tensor([0.96875, 0.98760, 0.99508, 0.99805], dtype=torch.float64), atol=1e-5)


def test_recurrent_is_the_definition(qkv, gamma):
    q, k, v = qkv
    y, S = R.recurrent(q, k, v, gamma, empty())
    n = 11
    expected = sum(gamma[1] ** (n - m) * (q[0, 1, n] @ k[0, 1, m]) * v[0, 1, m] for m in range(n + 1))
    assert torch.allclose(y[0, 1, n], expected, atol=1e-12)
    state = sum(gamma[1] ** (L - 1 - m) * torch.outer(k[0, 1, m], v[0, 1, m]) for m in range(L))
    assert torch.allclose(S[0, 1], state, atol=1e-12)


@pytest.mark.parametrize("cuts", [(), (7, 14, 21, 28), (1, 2, 30), (33,), (5, 6, 17, 34)])
def test_all_forms_agree_in_outputs_states_and_gradients(qkv, gamma, cuts):
    weight = torch.randn(B, H, L, D, dtype=torch.float64)

    def results(y, S):
        loss = (y * weight).sum() + (0 if S is None else S.square().sum())
        return y, S, torch.autograd.grad(loss, qkv, retain_graph=True)

    y0, S0, grads0 = results(*ragged((), *qkv, gamma, R.recurrent))
    y1, S1, grads1 = results(*ragged(cuts, *qkv, gamma))
    assert torch.allclose(y0, y1, atol=1e-12)
    assert torch.allclose(S0, S1, atol=1e-12)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(grads0, grads1, strict=True))
    y2 = R.parallel(*qkv, gamma)
    assert torch.allclose(y0, y2, atol=1e-12)
    recurrent_grads = torch.autograd.grad((y0 * weight).sum(), qkv)
    parallel_grads = torch.autograd.grad((y2 * weight).sum(), qkv)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(recurrent_grads, parallel_grads, strict=True))


def test_the_state_after_each_block_is_that_of_the_recurrent_form(qkv, gamma):
    q, k, v = qkv
    blocks, length = 5, 7
    decay, growth = (f[:, :, None] for f in R.decay_scaling(gamma, length))
    q_t, k_t, v_t = (x.view(B, H, blocks, length, D).permute(2, 0, 1, 3, 4) for x in qkv)
    for t in range(1, blocks + 1):
        parts = (x.flatten(0, 1) for x in (q_t[:t] * decay, k_t[:t] * growth, v_t[:t]))
        _, state = retnet.chunkwise(*parts, gamma, empty(), t, slice(0, 0))
        end = t * length
        _, S = R.recurrent(q[:, :, :end], k[:, :, :end], v[:, :, :end], gamma, empty())
        assert torch.allclose(state, S, atol=1e-12)


@pytest.mark.parametrize(("T", "predict"), [(3, slice(None)), (3, slice(1, None)), (4, slice(1, 3)), (1, slice(0, 0))])
def test_pop_and_its_gradient_are_those_of_its_parts(T, predict):
    """Every block and prediction by itself."""
    P = len(range(T)[predict])
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn((T + P) * 2, 2, 5, 4, generator=rng, dtype=torch.float64).requires_grad_() for _ in range(3))
    S = torch.randn(2, 2, 4, 4, generator=rng, dtype=torch.float64).requires_grad_()
    gamma = R.decay_rates(2)

    def parts() -> tuple[torch.Tensor, torch.Tensor]:
        y, states = [], [S]
        for block in (slice(2 * t, 2 * t + 2) for t in range(T)):
            y.append(attend(q[block], k[block], v[block], states[-1]))
            states.append(absorb(k[block], v[block], gamma, states[-1]))
        for i, t in enumerate(range(T)[predict]):
            block = slice(2 * (T + i), 2 * (T + i) + 2)
            y.append(attend(q[block], k[block], v[block], states[t + 1]))
        return torch.cat(y), states[-1]

    def gradients(y: torch.Tensor, leaving: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return y, leaving, *torch.autograd.grad((y.sin().sum() + (3 * leaving).sin().sum()), (q, k, v, S))

    whole = gradients(*retnet.chunkwise(q, k, v, gamma, S, T, predict))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(whole, gradients(*parts()), strict=True))


def test_rotation_turns_pairs_and_depends_on_distance_only():
    q, k = torch.randn(2, 16, dtype=torch.float64)
    score = {}
    for n, m in ((3, 1), (1_000_003, 1_000_001)):
        table = rotation(torch.tensor([n, m]), 16)
        score[n] = rotate(q, table[0]) @ rotate(k, table[1])
    assert torch.allclose(score[3], score[1_000_003], atol=1e-9)
    turned = rotate(torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64), rotation(torch.tensor(1), 4))
    slow = torch.tensor(1e-4, dtype=torch.float64)
    one = torch.tensor(1.0, dtype=torch.float64)
    assert torch.allclose(turned, torch.stack((one.cos(), one.sin(), -slow.sin(), slow.cos())))


def test_an_overlong_chunk_is_refused(gamma):
    with pytest.raises(AssertionError, match="at most 768"):
        R.decay_scaling(gamma, 769)
    _, growth = R.decay_scaling(gamma, 768)
    assert growth.to(torch.bfloat16).isfinite().all()
