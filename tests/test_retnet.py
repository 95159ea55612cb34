import pytest
import torch

from tokendream.nn.retnet import RetNet


def net(dtype=torch.float64, layers=2, width=32):
    torch.manual_seed(3)
    return RetNet(width, layers, 4).to(dtype).eval()


def test_a_paper_layer_has_the_published_size():
    assert sum(p.numel() for p in RetNet(256, 1, 4).parameters()) == 855_552


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


def test_moving_to_where_it_is_replaces_nothing():
    """A captured graph reads the tensors that were there."""
    made = net()
    gamma = made.gamma
    assert made.to("cpu").gamma is gamma
