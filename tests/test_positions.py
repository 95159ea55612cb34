"""Places in space and time, and windows in blocks: what they are, and kernels that follow them."""

import math

import pytest
import torch
from blocks import image_block
from comparing import apart, autocast, choose

from tokendream.agent.backbones import make_backbone
from tokendream.config.config import Config, vary
from tokendream.config.parts import WorldModelConfig
from tokendream.config.presets import TINY
from tokendream.errors import ConfigError
from tokendream.kernels.cpu import build
from tokendream.nn.retention import decay_scaling, window_rates
from tokendream.nn.retnet import RetNet
from tokendream.nn.rotary import grid_rotation, rotate
from tokendream.spaces.actions import Discrete
from tokendream.spaces.observations import Block, Slot
from tokendream.spaces.places import places

GRID = image_block(8, 512, Discrete(3))


def line(n):
    return Block(tuple(Slot("vector", "vector", 9, (i,)) for i in range(n)), Discrete(3))


def test_places_of_a_frame_and_its_action():
    where = places(GRID)
    assert where.shape == (65, 3)
    assert where[0].tolist() == [0, 0, 0]
    assert where[8 * 2 + 5].tolist() == [5, 2, 0]  # row 2, column 5
    assert where[64].tolist() == [4, 4, 1]


def test_a_line_has_columns_alone():
    assert places(line(5)).tolist() == [[0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0], [4, 0, 0], [2, 0, 1]]


@pytest.mark.parametrize("block", [GRID, line(6)], ids=["grid", "line"])
@pytest.mark.parametrize("width", [64, 16, 6])
def test_scores_depend_on_differences_of_x_y_and_t_alone(block, width):
    """Equal for pairs of tokens with equal differences, in any two frames, and not equal for any other."""
    where, L = places(block), block.K1
    q, k = torch.randn(2, width, dtype=torch.float64)
    n = torch.arange(4 * L)
    table = grid_rotation(n, where, width)
    scores = rotate(q.expand(4 * L, -1), table) @ rotate(k.expand(4 * L, -1), table).T
    xyt = where[n % L] + torch.tensor([0, 0, 2]) * (n // L)[:, None]
    differences = (xyt[:, None] - xyt).flatten(0, 1)
    same, which = differences.unique(dim=0, return_inverse=True)
    assert len(same) < len(differences)
    first = torch.zeros(len(same), dtype=torch.float64).scatter(0, which, scores.flatten())
    assert torch.allclose(scores.flatten(), first[which], atol=1e-9)
    assert len(first.round(decimals=9).unique()) == len(same)


def test_a_quarter_of_the_pairs_turns_with_time_alone():
    table = grid_rotation(torch.arange(65), places(GRID), 64)
    first, right, below = table[0], table[1], table[8]
    assert ((right != first).nonzero()[:, 0]).tolist() == list(range(0, 24, 2))
    assert ((below != first).nonzero()[:, 0]).tolist() == list(range(1, 24, 2))
    later = grid_rotation(torch.tensor([65]), places(GRID), 64)[0]
    assert (later != first).all()


def test_a_config_s_positions_turn_its_network():
    """The same weights give what RetNet gives with these places, and not what it gives with running positions."""
    config = WorldModelConfig(width=32, heads=4, layers=2, dropout=0.0, positions="grid")
    net, block = make_backbone(config, GRID), GRID.K1
    x, u = torch.randn(2, 3, block, 32), torch.randn(block - 1, 32)

    def outcome(**options):
        plain = RetNet(32, 2, 4, 4, 0.0, **options)
        plain.load_state_dict(net.state_dict())
        return plain.pop(x, u, plain.initial_state(2))[1]

    found = net.pop(x, u, net.initial_state(2))[1]
    assert torch.equal(found, outcome(places=places(GRID)))
    assert not torch.allclose(found, outcome(), atol=1e-3)


def test_windows_are_so_many_blocks():
    gamma = window_rates(4, 65, 4.0, 16.0)
    assert torch.allclose(1 / (1 - gamma) / 65, torch.tensor([4, 4 * 4 ** (1 / 3), 4 * 4 ** (2 / 3), 16]).double())
    assert torch.allclose(window_rates(3, 7, 2.0, 2.0), torch.full((3,), 13 / 14).double())


@pytest.mark.parametrize("block", [2, 7, 65, 257, 768])
def test_scaled_decays_stay_in_range_at_any_length_of_block(block):
    """The shortest window allowed, in the shortest and longest blocks; bf16 holds what folding needs."""
    for shortest in (1.0, 4.0):
        gamma = window_rates(4, block, shortest, 16.0)
        decay, growth = decay_scaling(gamma, block)
        assert growth.max() <= (1 - 1 / (shortest * block)) ** -block + 1e-9
        assert growth.max() <= 4
        assert (gamma < 1).all()
        assert torch.allclose(decay * growth, torch.ones_like(decay))


def test_decays_of_windows_survive_a_change_of_precision():
    config = WorldModelConfig(width=32, heads=4, layers=1, shortest_window=4.0, longest_window=16.0)
    net = make_backbone(config, GRID)
    gamma = window_rates(4, 65, 4.0, 16.0)
    assert torch.equal(net.to(torch.bfloat16).gamma, gamma)
    assert torch.equal(net.double().gamma, gamma)


@pytest.mark.skipif(build.why_not() is not None, reason="no kernels here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gradient", [True, False])
def test_kernels_follow(dtype, gradient):
    """POP with windows and places, with fused layers and without."""
    config = WorldModelConfig(
        width=128, heads=4, layers=2, dropout=0.0, shortest_window=2.0, longest_window=8.0, positions="grid"
    )
    net, block = make_backbone(config, image_block(3, 9, Discrete(2))), 10
    x, u = torch.randn(2, 4, block, 128), torch.randn(block - 1, 128)

    def outcome(kernels):
        choose(net, kernels=kernels)
        with autocast(dtype), torch.set_grad_enabled(gradient):
            y, y_next, state = net.pop(x.to(dtype), u, net.initial_state(2), slice(1, None), tail=1)
        return [t.detach().float() for t in (y, y_next, state.S)]

    assert apart(outcome(True), outcome(False)) < {torch.float32: 2e-5, torch.bfloat16: 0.04}[dtype]


def test_what_makes_no_window_is_refused():
    def read(**fields) -> Config:
        return vary(TINY, "world_model", **fields)

    read(shortest_window=1.0, longest_window=1.0)
    for fields, message in [
        ({"shortest_window": 0.5, "longest_window": 2.0}, "shortest_window must be at least 1"),
        ({"longest_window": 2.0}, "shortest_window must be at least 1"),
        ({"shortest_window": 4.0}, "longest_window must be at least"),
        ({"shortest_window": 4.0, "longest_window": 8.0, "backbone": "transformer"}, "shortest_window must be 0"),
    ]:
        with pytest.raises(ConfigError, match=message):
            read(**fields)


def test_windows_are_spaced_evenly_by_logarithm():
    steps = (1 / (1 - window_rates(6, 9, 4.0, 40.0))).log().diff()
    assert torch.allclose(steps, torch.full((5,), math.log(10) / 5).double())
