"""The dictionary: patches come back to the bit, what is useful stays, and nothing depends on order of summation."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokendream.agent.agent import Agent
from tokendream.config.parts import TokenizerConfig
from tokendream.config.presets import TINY, preset
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.envs.registry import make
from tokendream.tokenizers import dictionary as module
from tokendream.tokenizers.dictionary import MARGIN, NEW, DictionaryTokenizer, cut, distances, join
from tokendream.tokenizers.protocol import Fitted, Learned
from tokendream.training.trainer import Trainer


def made(codes: int = 16, downsamples: int = 1, width: int = 8) -> DictionaryTokenizer:
    settings = {"codebook_size": codes, "downsamples": downsamples, "code_width": width}
    return DictionaryTokenizer(TokenizerConfig(kind="dictionary", **settings))


def grey(*levels: int) -> Tensor:
    """Frames of one cell of 2x2 pixels, each of one grey level: two of them are 12 (a - b)² apart."""
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)


def noise(n: int, size: int = 8, levels: int = 256) -> Tensor:
    return torch.randint(0, levels, (n, 3, size, size)).mul(255 // (levels - 1)).to(torch.uint8)


def of_a_few(n: int, patches: int = 20) -> Tensor:
    """Frames of 4x4 pixels made of a few patches, the later frames of later ones."""
    few = torch.randint(0, 256, (patches, 12), dtype=torch.uint8)
    place = torch.linspace(0, patches - 8, n).long()[:, None] + torch.randint(0, 8, (n, 4))
    return join(few[place], 2, 2)


def book(V: DictionaryTokenizer) -> list[int]:
    """The grey levels of a book of such cells."""
    return V.patches[: V.vocabulary, 0].tolist()


def same(a: DictionaryTokenizer, b: DictionaryTokenizer) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_it_is_fitted_and_not_trained():
    V = made()
    assert isinstance(V, Fitted)
    assert not isinstance(V, Learned)
    assert list(V.parameters()) == []


@pytest.mark.parametrize("lead", [(), (1,), (2, 5), (0,)])
def test_shapes_for_any_leading_dimensions(lead):
    V = made()
    tokens = V.encode(torch.zeros(*lead, 3, 8, 8, dtype=torch.uint8))
    assert tokens.shape == (*lead, 16)
    assert V.codes(tokens).shape == (*lead, 16, 8)
    assert V.decode(tokens).shape == (*lead, 3, 8, 8)


def test_frames_and_tokens_that_do_not_fit_are_refused():
    with pytest.raises(AssertionError, match="multiple of 4 pixels wide, got 18x18"):
        made(downsamples=2).encode(noise(1, 18))
    with pytest.raises(AssertionError, match="square grid, got 15"):
        made().decode(torch.zeros(1, 15, dtype=torch.int64))


def test_cells_lie_row_by_row_and_join_is_the_inverse():
    frame = noise(3)
    cells = cut(frame, 2)
    assert torch.equal(cells[1, 2 * 4 + 3], frame[1, :, 4:6, 6:8].flatten())
    assert torch.equal(join(cells, 2, 4), frame)


@pytest.mark.parametrize("P", [12, 192, 768])
def test_distances_are_exact(P):
    x = torch.randint(0, 256, (7, P), dtype=torch.uint8)
    patches = torch.cat((torch.full((1, P), 255), torch.zeros(1, P), torch.randint(0, 256, (5, P)))).to(torch.uint8)
    wanted = (x[:, None].long() - patches.long()).square().sum(-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(distances(x, patches).long(), wanted)
    assert distances(patches[:1], patches[1:2]).long().item() == P * 255**2


def test_a_fresh_book_is_black():
    V = made()
    assert V.encode(noise(2)).unique().tolist() == [0]
    assert V.decode(torch.arange(16)).unique().tolist() == [0]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_an_image_of_the_book_s_patches_comes_back_to_the_bit(seed, frames):
    torch.manual_seed(seed)
    V = made()
    codes = V.fit(noise(frames, levels=4)).codes
    image = V.decode(torch.randint(0, codes, (5, 16)))
    assert torch.equal(V.decode(V.encode(image)), image)
    tokens = torch.arange(codes)[:, None]
    assert torch.equal(V.encode(V.decode(tokens)), tokens)  # each is its own nearest


def test_equal_pixels_are_equal_tokens_wherever_they_are():
    V, frames = made(), of_a_few(12)
    V.fit(frames)
    cells, tokens = cut(frames, 2).flatten(0, 1), V.encode(frames).flatten()
    equal = (cells[:, None] == cells[None]).all(-1)
    assert equal.sum() > 2 * len(cells)
    assert (tokens[:, None] == tokens[None])[equal].all()


def test_a_patch_is_new_where_it_is_further_than_the_threshold():
    V, step = made(), int((NEW / 12) ** 0.5)
    assert 12 * step**2 <= NEW < 12 * (step + 1) ** 2
    assert V.fit(grey(step, step - 1)) == (1, 0)
    assert V.fit(grey(step + 1)) == (2, 1)
    assert book(V)[:2] == [0, step + 1]


def test_in_a_full_book_the_least_useful_goes():
    """Two codes of the grey levels 0, 100 and 200, in units of the squared distance of a hundred."""
    V, unit = made(codes=2), 12 * 100**2

    def saved() -> list[int]:
        assert (V.saved % unit == 0).all()
        return (V.saved // unit).tolist()

    assert V.fit(grey(100)) == (2, 1)
    assert (book(V), saved()) == ([0, 100], [0, 1, 0, 0])
    assert V.fit(grey(200)).changed == 1  # 100 saves 4 - 1 for it; black saved nothing and goes
    assert (book(V), saved()) == ([200, 100], [1, 4, 0, 0])
    assert V.fit(grey(100, 100)).changed == 0  # without 100 each would be 1 off
    assert saved() == [1, 6, 0, 0]
    assert V.fit(grey(0, 0)).changed == 0  # 100 stands in, 4 - 1 each; black would save 1 each
    assert saved() == [1, 12, 2, 0]
    assert V.fit(grey(0)).changed == 1  # black would have saved more than twice what 200 has
    assert (book(V), saved()) == ([0, 100], [3, 15, 1, 0])
    assert torch.equal(V.table[0], module.to_float(V.patches[0]) @ V.projection)


def test_a_code_stays_what_it_is_while_it_is_useful():
    """What leaves had saved less than half of what comes; afterwards nothing that waits has saved twice the least."""
    V, left = made(codes=6), 0
    for frame in of_a_few(60).split(1):
        before, known = V.patches[:6].clone(), min(int(V.known), 6)
        fit = V.fit(frame)
        moved = (V.patches[:known] != before[:known]).any(-1).nonzero().flatten().tolist()
        assert fit.codes - known + len(moved) == fit.changed
        for row in moved:
            (waiting,) = (V.patches[6:] == before[row]).all(-1).nonzero()[:1].flatten().tolist()
            assert MARGIN * V.saved[6 + waiting] < V.saved[row]
        left += len(moved)
        if fit.codes == 6:
            assert V.saved[6:].max() <= MARGIN * V.saved[:6].min()
    assert left >= 3


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_fitting_is_the_same_whatever_the_batches(seed, sizes):
    torch.manual_seed(seed)
    frames = of_a_few(sum(sizes), patches=12)
    whole, parts = made(codes=6), made(codes=6)
    changed = whole.fit(frames).changed
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert sum(parts.fit(part).changed for part in frames.split(sizes)) == changed
    assert same(whole, parts)


def test_encoding_is_the_same_for_any_split(monkeypatch):
    V, frames = made(), noise(13, levels=4)
    V.fit(frames)
    tokens = V.encode(frames)
    monkeypatch.setattr(module, "CHUNK", 4)
    assert torch.equal(V.encode(frames), tokens)


def test_no_random_number_is_drawn():
    before = torch.get_rng_state()
    V = made()
    V.fit(torch.full((1, 3, 8, 8), 200, dtype=torch.uint8))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("downsamples", "width"), [(1, 8), (1, 32), (2, 48)])
def test_near_patches_have_near_codes(downsamples, width):
    """The projection is orthonormal: no distance grows, and none shrinks where a code is as wide as a patch."""
    V = made(downsamples=downsamples, width=width)
    V.fit(noise(4))
    codes, pixels = V.codes(torch.arange(16)), module.to_float(V.patches[:16])
    near, far = torch.cdist(codes, codes), torch.cdist(pixels, pixels)
    assert (near <= far + 1e-4).all()
    if width >= pixels.shape[1]:
        torch.testing.assert_close(near, far, atol=1e-3, rtol=1e-4)


def trainer(**collect: int) -> Trainer:
    config = dataclasses.replace(preset("tiny-dictionary"), collect=dataclasses.replace(TINY.collect, **collect))
    torch.manual_seed(0)
    envs, size = make(config, 1, evaluation=False), config.env.size
    replay = ReplayBuffer(config.collect.capacity, (3, size, size))
    return Trainer(
        config, Agent.from_config(config, envs.spaces), envs, replay, Compute(torch.device("cpu"), torch.float32)
    )


@pytest.mark.parametrize("capacity", [1000, 13])
def test_it_is_shown_every_frame_of_an_epoch_once(capacity):
    """20 steps in batches of 4; of a replay that holds no more than 13 rows, those."""
    t, shown = trainer(capacity=capacity), []
    phase = t.phases["tokenizer"]
    fit = t.agent.tokenizer.fit
    phase.captured._run = lambda frame: shown.append(frame) or fit(frame)
    for _ in range(2):
        t.run_epoch()
        record = t.close_epoch()
        held = torch.from_numpy(t.replay.export(max(t.replay.oldest, t.replay.total - 20), t.replay.total)["frame"])
        assert torch.equal(torch.cat(shown), held)
        shown.clear()
    assert record["tokenizer/updates_per_s"] > 0
    assert record["tokenizer/codes"] == min(int(t.agent.tokenizer.known), 16)


def test_what_it_learns_late_is_in_every_token():
    """The cache of tokens forgets when a code changes, and only then."""
    t = trainer()
    t.run_epoch()
    cache, V = t.shared.cache, t.agent.tokenizer
    forgotten = []
    forget = cache.forget
    cache.forget = lambda: forgotten.append(True) or forget()
    t.phases["tokenizer"].update(0)
    assert not forgotten
    cache.refresh()
    t.replay.add(np.full(t.replay.frame_shape, 255, np.uint8), 0, 0.0, False, False)
    t.phases["tokenizer"].update(4)
    assert forgotten
    segments = t.replay.draw(8, 5, align="start", rng=t.shared.rng)
    segment = t.shared.tokenised(segments)
    assert torch.equal(segment.tokens[segments.mask], V.encode(t.replay.frames(segments.row[segments.mask])))
