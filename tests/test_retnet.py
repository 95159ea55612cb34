import pytest
import torch

from tokendream.nn.retnet import RetNet, RetNetLayer
from tokendream.nn.rotary import Rotary


def net(dtype=torch.float64, layers=2, width=32):
    torch.manual_seed(3)
    return RetNet(width, layers, 4, 4, 0.0).to(dtype).eval()


def test_a_paper_layer_has_the_published_size():
    assert sum(p.numel() for p in RetNet(256, 1, 4, 4, 0.0).parameters()) == 855_552


def test_layers_start_apart():
    one, other = RetNet(32, 2, 4, 4, 0.0).layers
    same = [name for name, p in one.named_parameters() if p.ndim == 2 and torch.equal(p, other.get_parameter(name))]
    assert not same


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


def test_dropout_on_the_retention_comes_before_its_norm():
    """As in the published code: whatever was dropped, every head's output has mean 0 and variance 1."""
    layer = RetNetLayer(64, 4, 4, 0.5).double().train()
    torch.nn.init.zeros_(layer.qkvg.weight[-64:])
    torch.nn.init.ones_(layer.qkvg.bias[-64:])  # the gate: swish(1) for all
    x = torch.randn(2, 5, 64, dtype=torch.float64)
    turned = Rotary(*(torch.ones(1, 4, 5, 8, dtype=torch.complex128) for _ in range(2)))
    once, again = (layer.retain(x, turned, lambda q, k, v: (v, None))[0] for _ in range(2))
    assert not torch.equal(once, again)
    heads = (once / torch.nn.functional.silu(torch.ones(()).double())).unflatten(-1, (4, 16))
    torch.testing.assert_close(heads.mean(-1), torch.zeros(2, 5, 4).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(heads.square().mean(-1), torch.ones(2, 5, 4).double(), atol=1e-4, rtol=0)


def test_decays_survive_a_change_of_precision():
    assert torch.equal(net(torch.bfloat16).gamma, net().gamma)


def test_moving_to_where_it_is_replaces_nothing():
    """A captured graph reads the tensors that were there."""
    made = net()
    gamma = made.gamma
    assert made.to("cpu").gamma is gamma
