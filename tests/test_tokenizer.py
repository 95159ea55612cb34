"""The tokenizer: sizes, uint8 <-> tokens, where each loss term's gradient goes, precision, learning."""

import dataclasses

import pytest
import torch
from torch import Tensor

from tokendream.config import presets
from tokendream.config.parts import TokenizerConfig
from tokendream.nn.pixels import to_float, to_uint8
from tokendream.tokenizers import vq as module
from tokendream.tokenizers.vq import VQTokenizer


def tiny(**options: object) -> VQTokenizer:
    settings = {"perceptual": "none", **options}
    return VQTokenizer(TokenizerConfig("vq", 8, 2, 32, 16, **settings))  # type: ignore[arg-type]


def toy_frames(n: int, size: int = 16) -> Tensor:
    """Black frames with a coloured square that differs in place."""
    frames = torch.zeros(n, 3, size, size, dtype=torch.uint8)
    for i in range(n):
        y, x = (3 * i) % (size - 4), (5 * i) % (size - 4)
        frames[i, :, y : y + 4, x : x + 4] = torch.tensor([250, 90, 20], dtype=torch.uint8)[:, None, None]
    return frames


def noise(*lead: int, size: int = 16) -> Tensor:
    return torch.randint(0, 256, (*lead, 3, size, size), dtype=torch.uint8)


@pytest.mark.parametrize("perceptual", ["none", "vgg16"])
def test_the_paper_has_3_189_667_parameters_without_lpips(perceptual: str) -> None:
    tokenizer = VQTokenizer(dataclasses.replace(presets.REM.tokenizer, perceptual=perceptual))
    assert sum(p.numel() for p in tokenizer.parameters()) == 3_189_667
    assert sum(t.numel() for t in tokenizer.state_dict().values()) == 3_189_667


def test_uint8_and_floats_are_inverse() -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    x = to_float(every)
    assert (x.min().item(), x.max().item()) == (-1, 1)
    assert torch.equal(to_uint8(x), every)
    assert torch.equal(to_uint8(x.bfloat16() * 2)[x > 0.6], torch.tensor(255, dtype=torch.uint8).expand(3 * 51))


@pytest.mark.parametrize("lead", [(), (1,), (3,), (2, 5), (0,)])
def test_shapes_for_any_leading_dimensions(lead: tuple[int, ...]) -> None:
    tokenizer = tiny()
    tokens = tokenizer.encode(noise(*lead))
    assert tokens.shape == (*lead, 16)
    assert tokenizer.codes(tokens).shape == (*lead, 16, 16)
    assert tokenizer.decode(tokens).shape == (*lead, 3, 16, 16)
    assert not tokenizer.codes(tokens).requires_grad


def test_encode_is_the_same_for_any_split_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, frames = tiny(), noise(13)
    tokens = tokenizer.encode(frames)
    assert torch.equal(tokenizer.encode(frames), tokens)
    assert torch.equal(torch.cat([tokenizer.encode(part) for part in frames.split([1, 5, 7])]), tokens)
    whole = tokenizer.decode(tokens)
    monkeypatch.setattr(module, "CHUNK", 4)
    assert torch.equal(tokenizer.encode(frames), tokens)
    assert torch.equal(tokenizer.decode(tokens), whole)


def test_tokens_lie_row_by_row() -> None:
    tokenizer, x = tiny(), torch.rand(1, 3, 32, 32)
    grid = tokenizer.pre(tokenizer.encoder(x))
    embedded = tokenizer._embed(x)
    assert embedded.shape == (1, 64, 16)
    assert torch.equal(embedded[0, 2 * 8 + 6], grid[0, :, 2, 6])
    expected = tokenizer.decoder(tokenizer.post(grid))
    torch.testing.assert_close(tokenizer._draw(embedded), expected)


def gradients(tokenizer: VQTokenizer, term: str, frames: Tensor) -> dict[str, bool]:
    """Which parts receive gradient from one term."""
    tokenizer.zero_grad()
    tokenizer.loss(frames).terms[term].backward()
    return {
        name: any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
        for name, part in tokenizer.named_children()
    }


@pytest.mark.parametrize(
    ("term", "parts"),
    [
        ("reconstruction", {"encoder", "pre", "post", "decoder"}),
        ("perceptual", {"encoder", "pre", "post", "decoder"}),
        ("changed", {"encoder", "pre", "post", "decoder"}),
        ("codebook", {"quantizer"}),
        ("commitment", {"encoder", "pre"}),
    ],
)
def test_each_term_reaches_its_own_parts_and_no_other(term: str, parts: set[str]) -> None:
    tokenizer = tiny(perceptual="alexnet", changed_weight=1.0)
    reached = gradients(tokenizer, term, noise(2, size=32))
    assert {name for name, yes in reached.items() if yes} == parts


def test_the_encoder_gets_the_gradient_of_the_codes_it_was_rounded_to() -> None:
    tokenizer, frames = tiny(), noise(2)
    x = to_float(frames)
    z = tokenizer._embed(x)
    z.retain_grad()
    codes = tokenizer.quantizer.lookup(tokenizer.quantizer.nearest(z))
    leaf = codes.detach().clone().requires_grad_()
    for latent in (module.straight_through(z, codes), leaf):
        (tokenizer._draw(latent) - x).square().mean().backward()
    torch.testing.assert_close(z.grad, leaf.grad)


def test_the_loss_is_its_definition_on_what_decode_shows() -> None:
    tokenizer, frames = tiny(perceptual="alexnet", perceptual_weight=0.5), noise(3, size=32)
    losses = tokenizer.loss(frames)
    x, tokens = to_float(frames), tokenizer.encode(frames)
    codes, z = tokenizer.codes(tokens), tokenizer._embed(x)
    drawn = tokenizer._draw(codes)
    assert tokenizer.lpips is not None
    assert list(losses.terms) == ["reconstruction", "perceptual", "codebook", "commitment"]
    torch.testing.assert_close(losses.terms["reconstruction"], (drawn - x).square().mean())
    torch.testing.assert_close(losses.terms["perceptual"], 0.5 * tokenizer.lpips(x, drawn).mean())
    torch.testing.assert_close(losses.terms["codebook"], (codes - z).square().mean())
    torch.testing.assert_close(losses.terms["commitment"], losses.terms["codebook"])
    assert torch.equal(to_uint8(drawn), tokenizer.decode(tokens))
    p = tokens.flatten().bincount(minlength=32) / tokens.numel()
    torch.testing.assert_close(losses.info["perplexity"], torch.exp(-(p * p.clamp(min=1e-9).log()).sum()))
    torch.testing.assert_close(losses.info["codes_used"], (p > 0).float().mean())


def test_changed_scores_moving_pixels_only() -> None:
    frames = torch.full((4, 3, 16, 16), 100, dtype=torch.uint8)
    frames[0, 1, 5, 7] = 255
    x = to_float(frames)
    tokenizer = tiny(changed_weight=2.0)
    losses = tokenizer.loss(frames)
    drawn = tokenizer._draw(tokenizer.codes(tokenizer.encode(frames)))
    error = (drawn - x).square()
    moved = torch.zeros(4, 1, 16, 16, dtype=torch.bool)
    moved[:, :, 5, 7] = True  # in frame 0 and, against the mean, in the others: 155/4 of 255 off
    torch.testing.assert_close(losses.terms["changed"], 2 * error[moved.expand(-1, 3, -1, -1)].mean())
    still = tokenizer.loss(frames[1:])
    assert still.terms["changed"].item() == 0


def test_lost_weighs_pixels_by_their_error() -> None:
    frames = toy_frames(4)
    tokenizer = tiny(lost_weight=2.0)
    losses = tokenizer.loss(frames)
    error = (tokenizer._draw(tokenizer.codes(tokenizer.encode(frames))) - to_float(frames)).square()
    by_pixel = error.mean(1)
    torch.testing.assert_close(losses.terms["lost"], 2 * by_pixel.square().sum() / by_pixel.sum())
    assert losses.terms["lost"] > 2 * losses.terms["reconstruction"]  # equal only if every pixel is as wrong
    pushed = error.detach().requires_grad_()
    module._lost(pushed).backward()
    assert torch.allclose(pushed.grad, (by_pixel.detach() / by_pixel.detach().sum() / 3)[:, None].expand_as(error))


def test_bf16_autocast_stays_close_and_losses_stay_float32() -> None:
    """Measured: terms within 2%, gradients at a cosine above 0.99."""
    frames = toy_frames(8, size=32)
    figures, directions = [], []
    tokenizer = tiny(perceptual="alexnet", changed_weight=1.0)
    for enabled in (False, True):
        tokenizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses = tokenizer.loss(frames)
        losses.total.backward()
        assert all(term.dtype == torch.float32 for term in losses.figures().values())
        figures.append(torch.stack(list(losses.terms.values())).detach())
        directions.append(torch.cat([p.grad.flatten() for p in tokenizer.decoder.parameters()]))
    torch.testing.assert_close(figures[1], figures[0], rtol=0.05, atol=1e-4)
    assert torch.cosine_similarity(*directions, dim=0) > 0.98


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_it_learns_a_handful_of_frames(precision: str) -> None:
    frames = toy_frames(6)
    tokenizer = tiny(revive_after=100)
    optimiser = torch.optim.AdamW(tokenizer.parameters(), lr=3e-3)
    totals = []
    for _ in range(60):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            losses = tokenizer.loss(frames)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        totals.append(losses.terms["reconstruction"].item())
    assert totals[-1] < 0.2 * totals[0]


def test_revival_happens_in_training_mode_only_and_is_saved() -> None:
    tokenizer = tiny(revive_after=100).eval()
    tokenizer.quantizer.idle.fill_(1000)
    before = tokenizer.quantizer.codebook.detach().clone()
    assert "revived" not in tokenizer.loss(noise(2)).info
    assert torch.equal(tokenizer.quantizer.codebook, before)
    losses = tokenizer.train().loss(noise(2))
    losses.total.backward()  # moving codes after their use does not disturb the backward pass
    assert losses.info["revived"].item() == 1
    assert "quantizer.idle" in tokenizer.state_dict()


def test_frames_and_tokens_that_do_not_fit_are_refused() -> None:
    with pytest.raises(AssertionError, match="multiple of 4 pixels wide, got 18x18"):
        tiny().encode(noise(1, size=18))
    with pytest.raises(AssertionError, match="square grid, got 15"):
        tiny().decode(torch.zeros(1, 15, dtype=torch.int64))


def test_a_fixed_grid_is_trained_on_the_picture_alone() -> None:
    """FSQ: no codebook to move and nothing to commit to; the encoder gets its gradient through the rounding."""
    config, frames = TokenizerConfig("fsq", 8, 2, 64, 16, perceptual="alexnet"), toy_frames(6, size=32)
    V = VQTokenizer(config)
    assert list(V.loss(frames).terms) == ["reconstruction", "perceptual"]
    assert {name for name, yes in gradients(V, "reconstruction", frames).items() if yes} == {
        "encoder", "pre", "post", "decoder",
    }  # fmt: skip
    codes = V.codes(V.encode(frames))
    assert codes.shape == (6, 64, 16)
    assert not codes.requires_grad
    V = VQTokenizer(dataclasses.replace(config, perceptual="none"))
    before = V.codes(torch.arange(64))
    optimiser, totals = torch.optim.AdamW(V.parameters(), lr=3e-3), []
    for _ in range(60):
        losses = V.loss(frames)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        totals.append(losses.terms["reconstruction"].item())
    assert totals[-1] < 0.2 * totals[0]
    assert torch.equal(V.codes(torch.arange(64)), before)
