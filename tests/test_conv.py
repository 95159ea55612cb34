"""Encoder and decoder: shapes, the one-sided padding, and locality."""

import pytest
import torch

from tokendream.nn.conv import Decoder, Down, Encoder, Up


@pytest.mark.parametrize(("channels", "downsamples", "size"), [(8, 1, 6), (8, 3, 24), (16, 4, 32)])
def test_each_downsampling_halves_the_sides_and_doubles_the_channels(
    channels: int, downsamples: int, size: int
) -> None:
    encoder, decoder = Encoder(channels, downsamples), Decoder(channels, downsamples)
    y = encoder(torch.rand(2, 3, size, size))
    assert y.shape == (2, channels << downsamples, size >> downsamples, size >> downsamples)
    assert decoder(y).shape == (2, 3, size, size)


def test_the_paper_sizes_of_one_block() -> None:
    assert sum(p.numel() for p in Down(64).parameters()) == 54 * 64**2 + 6 * 64
    assert sum(p.numel() for p in Up(64).parameters()) == 27 * 64**2 // 4 + 3 * 64


def group_norm(norm: torch.nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)


def test_down_pads_right_and_bottom_only() -> None:
    """Output i of the strided convolution covers rows 2i .. 2i+2: the last one meets the padding, the first none."""
    down = Down(8).double()
    x = torch.randn(1, 8, 6, 6, dtype=torch.float64)
    inner = torch.nn.functional.silu(group_norm(down.norm, x))
    expected = torch.zeros(1, 16, 3, 3, dtype=torch.float64)
    padded = torch.zeros(1, 8, 7, 7, dtype=torch.float64)
    padded[..., :6, :6] = inner
    for i in range(3):
        for j in range(3):
            patch = padded[0, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            expected[0, :, i, j] = (down.stride.weight * patch).sum((1, 2, 3)) + down.stride.bias
    torch.testing.assert_close(down(x), down.conv(expected))


def test_up_repeats_pixels_before_it_convolves() -> None:
    up = Up(16).double()
    x = torch.randn(2, 16, 3, 3, dtype=torch.float64)
    repeated = torch.nn.functional.silu(group_norm(up.norm, x)).repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(up(x), up.conv(up.widen(repeated)))


def test_images_of_a_batch_do_not_meet() -> None:
    encoder = Encoder(8, 2).double()
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(encoder(x)[1:2], encoder(x[1:2]), rtol=1e-12, atol=1e-12)
