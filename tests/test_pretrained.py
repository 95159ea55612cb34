"""Features of VGG16 as tokens: codes follow the mean of what they stand for, and no batch changes a token."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tokendream.agent.agent import Agent
from tokendream.config.config import Config, vary
from tokendream.config.parts import TokenizerConfig
from tokendream.config.presets import TINY, preset
from tokendream.envs.registry import make
from tokendream.errors import ConfigError
from tokendream.nn.pixels import to_float
from tokendream.spaces.layout import Layout, Part
from tokendream.tokenizers import dictionary
from tokendream.tokenizers.build import build
from tokendream.tokenizers.dictionary import cut
from tokendream.tokenizers.perceptual import read_lpips
from tokendream.tokenizers.pretrained import APART, PretrainedTokenizer
from tokendream.tokenizers.protocol import Fitted, Learned


def made(codes: int = 24, **settings: int) -> PretrainedTokenizer:
    config = {"codebook_size": codes, "downsamples": 3, "code_width": 16, **settings}
    return PretrainedTokenizer(TokenizerConfig(kind="pretrained", **config))


def frames(n: int) -> Tensor:
    """24 pixels wide, of a few coarse patterns that move."""
    return torch.randint(0, 2, (n, 3, 6, 6)).mul(200).to(torch.uint8).repeat_interleave(4, -1).repeat_interleave(4, -2)


def state(V: PretrainedTokenizer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in V.state_dict().items()}


def same(a: PretrainedTokenizer, b: PretrainedTokenizer) -> bool:
    return all(torch.equal(x, y) for x, y in zip(state(a).values(), state(b).values(), strict=True))


def test_it_is_fitted_and_not_trained_and_no_checkpoint_has_its_network():
    V = made()
    assert isinstance(V, Fitted)
    assert not isinstance(V, Learned)
    assert list(V.parameters()) == []
    assert not [name for name in V.state_dict() if name.startswith("vgg")]
    assert sum(x.numel() for x in V.vgg.buffers()) > 200_000


@pytest.mark.parametrize("lead", [(), (2, 3), (0,)])
def test_shapes_for_any_leading_dimensions(lead):
    V = made()
    tokens = V.encode(torch.zeros(*lead, 3, 24, 24, dtype=torch.uint8))
    assert tokens.shape == (*lead, 9)
    assert V.codes(tokens).shape == (*lead, 9, 16)
    assert V.decode(tokens).shape == (*lead, 3, 24, 24)


@pytest.mark.parametrize(("tap", "channels"), [(1, 64), (2, 128), (3, 256)])
def test_a_cell_is_the_mean_of_the_unit_features_of_lpips(tap, channels):
    frame = frames(2)
    V = made(tap=tap)
    feature = read_lpips("vgg16").features(to_float(frame))[tap - 1]
    wanted = 255 * F.avg_pool2d(F.normalize(feature, dim=1), feature.shape[-1] // 3).flatten(2).mT
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cells = V._cells(frame)
    assert cells.shape == (2, 9, channels)
    assert (cells.float() - wanted).abs().max() < 0.51


def test_tokens_are_the_same_in_any_batch(monkeypatch):
    V, x = made(), frames(5)
    V.fit(x)
    tokens = V.encode(x)
    assert tokens.unique().numel() > 10
    assert torch.equal(V.encode(x.repeat(2, 1, 1, 1)), tokens.repeat(2, 1))
    monkeypatch.setattr(dictionary, "CHUNK", 3)
    assert torch.equal(V.encode(x[2:]), tokens[2:])


def test_equal_pixels_in_the_receptive_field_are_equal_tokens():
    """A cell of the first column, 5 pixels of others around it at tap 1; the rest of the frame is another."""
    V, x = made(tap=1), frames(4)
    V.fit(x)
    other = x.clone()
    other[..., 16:] = 255 - other[..., 16:]
    tokens, changed = V.encode(x).view(-1, 3, 3), V.encode(other).view(-1, 3, 3)
    assert torch.equal(tokens[..., 0], changed[..., 0])
    assert (tokens[..., 2] != changed[..., 2]).any()


def test_fitting_is_the_same_whatever_the_batches_and_after_a_resume():
    x, codes = frames(4), 16
    whole, parts, resumed = made(codes), made(codes), made(codes)
    changed = whole.fit(x).changed
    changed -= sum(parts.fit(part).changed for part in x[:3].split([1, 0, 2]))
    resumed.load_state_dict(state(parts))
    changed -= resumed.fit(x[3:]).changed
    assert int(whole.known) > codes
    assert changed == 0
    assert same(whole, resumed)


def test_codes_and_pixels_are_means_of_what_they_stood_for():
    """With room for all, a code has counted every cell that it stood for when it came."""
    V, x = made(codes=100), frames(2)
    fit = V.fit(x)
    assert fit.codes < 100
    assert int(V.count.sum()) == 2 * 9
    used = V.count > 0
    mean = (V.features[used] / V.count[used, None]).round()
    assert (mean - V.patches[used].float()).square().sum(1).max() <= APART + 2
    assert torch.equal(V.pixels.sum(0), cut(x, 8).long().sum((0, 1)))
    near = (to_float(V.decode(V.encode(x))) - to_float(x)).square().mean()
    assert near < 0.1 * to_float(x).var()
    wanted = V.patches[: fit.codes].float() / 255 @ V.projection * 4
    torch.testing.assert_close(V.table[: fit.codes], wanted)


def test_what_it_knows_changes_no_code():
    V, x = made(codes=100), frames(2)
    assert V.fit(x).changed > 0
    before = state(V)
    assert V.fit(x).changed == 0
    assert torch.equal(V.patches, before["patches"])
    assert not torch.equal(V.count, before["count"])


def test_a_full_book_changes_whole_rows():
    """Codes that leave take their counts with them, and come back with them."""
    V = made(codes=4)
    for part in frames(6).split(2):
        V.fit(part)
        assert int(V.known) > 4
        used = V.count > 0
        assert torch.equal(used, (V.features > 0).any(1))
        mean = (V.features[used] / V.count[used, None]).round()
        assert ((mean - V.patches[used].float()).square().sum(1) <= APART + 30).float().mean() > 0.9


def test_no_random_number_is_drawn():
    x, before = frames(2), torch.get_rng_state()
    made().fit(x)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_it_cannot_see_is_refused():
    layout = Layout((Part("", "vector", (4,)),))
    with pytest.raises(ConfigError, match="kind must be another kind where an observation has no image"):
        build(dataclasses.replace(TINY.tokenizer, kind="pretrained"), layout)
    with pytest.raises(ConfigError, match=r"tokenizer\.tap must be at most 4"):
        vary(preset("tiny-pretrained"), "tokenizer", downsamples=3, tap=5)


def test_an_agent_s_weights_go_without_the_network():
    config: Config = preset("tiny-pretrained")
    envs = make(config, 1, evaluation=False)
    agent = Agent.from_config(config, envs.spaces)
    envs.close()
    assert not [name for name in agent.state_dict() if ".vgg." in name]
