import pytest
import torch

from tokendream.nn.dropout import cpu_mask, dropout

N = 1 << 20


@pytest.mark.parametrize("p", [0.1, 0.5, 0.93])
def test_the_rate_is_exact_and_neighbours_are_independent(p):
    """Four numbers come from one random word: no place in it may drop more, nor know of the others."""
    dropped = (cpu_mask(torch.Size((N,)), p) == 0).double()
    sigma = (p * (1 - p) / N) ** 0.5
    assert abs(dropped.mean() - p) < 4 * sigma
    assert ((dropped.view(-1, 4).mean(0) - p).abs() < 4 * 2 * sigma).all()
    for lag in (1, 2, 3, 4, 8):
        both = (dropped[lag:] * dropped[:-lag]).mean()
        assert abs(both - p * p) < 5 * (p * p * (1 - p * p) / N) ** 0.5
        assert abs((dropped[lag:] - p).mul(dropped[:-lag] - p).mean()) < 4 * p * (1 - p) / N**0.5


def test_what_is_kept_is_scaled_and_the_gradient_is_the_mask():
    x = torch.randn(3, 7, 11).bfloat16().requires_grad_()
    torch.manual_seed(5)
    y = dropout(x, 0.25)
    torch.manual_seed(5)
    mask = cpu_mask(x.shape, 0.25)
    assert set(mask.unique().tolist()) == {0.0, float(torch.tensor(1 / 0.75).bfloat16())}
    assert torch.equal(y, x * mask)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], mask)


def test_a_restored_random_state_gives_the_same_mask():
    shape = torch.Size((5, 13))
    state = torch.get_rng_state()
    first, second = cpu_mask(shape, 0.5), cpu_mask(shape, 0.5)
    torch.set_rng_state(state)
    assert torch.equal(cpu_mask(shape, 0.5), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_every_precision_drops_in_training_only(dtype):
    x = torch.ones(1000, dtype=dtype)
    assert torch.equal(dropout(x, 0.0), x)
    assert not dropout(x, 1.0).any()
    assert dropout(x, 1e-9).count_nonzero() >= 990
    assert dropout(x, 1 - 1e-9).count_nonzero() <= 10
    assert 400 < int((dropout(x, 0.5) == 0).sum()) < 600
