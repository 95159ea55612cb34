"""The patch tokenizer's network: shapes, and a token that depends on its own cell alone."""

import pytest
import torch

from tokendream.config.parts import TokenizerConfig
from tokendream.nn.patch import PatchDecoder, PatchEncoder
from tokendream.tokenizers.vq import VQTokenizer


@pytest.mark.parametrize(("channels", "downsamples", "size"), [(8, 1, 6), (16, 3, 24), (4, 2, 32)])
def test_shapes_are_those_of_the_paper_s_network(channels: int, downsamples: int, size: int) -> None:
    encoder, decoder = PatchEncoder(channels, downsamples), PatchDecoder(channels, downsamples)
    y = encoder(torch.rand(2, 3, size, size))
    assert y.shape == (2, channels << downsamples, size >> downsamples, size >> downsamples)
    assert decoder(y).shape == (2, 3, size, size)


def test_the_same_cell_is_the_same_vector_wherever_it_lies() -> None:
    encoder = PatchEncoder(8, 2).double()
    cell = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    y = encoder(cell.repeat(1, 1, 3, 3))
    torch.testing.assert_close(y, y[:, :, :1, :1].expand_as(y))


def test_a_change_in_one_cell_changes_that_cell_alone() -> None:
    """And for the paper's network it changes others: the figure that this network exists for."""
    torch.manual_seed(0)
    frame = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    other = frame.clone()
    other[:, :, 4:8, 8:12] = 255 - other[:, :, 4:8, 8:12]
    patch = VQTokenizer(TokenizerConfig("vq", 8, 2, 32, 16, perceptual="none", network="patch"))
    moved = (patch._embed(frame / 255) - patch._embed(other / 255)).abs().amax(2)[0]
    assert moved.nonzero().flatten().tolist() == [1 * 4 + 2]
    conv = VQTokenizer(TokenizerConfig("vq", 8, 2, 32, 16, perceptual="none"))
    assert ((conv._embed(frame / 255) - conv._embed(other / 255)).abs().amax(2)[0] > 0).all()


def test_the_decoder_mends_seams_between_neighbours_and_no_further() -> None:
    decoder = PatchDecoder(8, 2)
    x = torch.rand(1, 32, 5, 5)
    other = x.clone()
    other[0, :, 2, 2] += 1
    rows = (decoder(x) - decoder(other)).abs().amax((0, 1, 3)).nonzero().flatten()
    assert rows.tolist() == list(range(4, 16))
