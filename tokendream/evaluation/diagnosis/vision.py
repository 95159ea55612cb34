"""The tokenizer: what it keeps of a frame, above all of what moves."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor
from torch.nn import functional as F

from tokendream.evaluation.diagnosis.figures import Figure, PartFigures, number
from tokendream.nn.pixels import to_float
from tokendream.tokenizers.perceptual import read_lpips
from tokendream.tokenizers.protocol import Tokenizer
from tokendream.tokenizers.vq import CHANGED, CHUNK

STILL = 1 / 255
"""A cell is still when none of its pixels moves by more than this, in units of [-1, 1]."""


@torch.no_grad()
def vision(tokenizer: Tokenizer, frame: UInt8[Tensor, "N 3 S S"], follows: Bool[Tensor, " N"]) -> PartFigures:
    """Measure V on consecutive frames; `follows[n]` says whether frame n came after frame n-1 in the same game.

    The caller chooses the precision with autocast.
    """
    tokens = tokenizer.encode(frame)
    x, y = to_float(frame), to_float(tokenizer.decode(tokens))
    error = (y - x).square().mean(1)
    after = follows.nonzero().flatten()
    step = (x[after] - x[after - 1]).abs().amax(1)
    moving = step > CHANGED
    ignorant = (x.mean(0) - x).square().mean(1)  # of a tokenizer that shows the mean frame whatever it sees
    still = F.max_pool2d(step[:, None], frame.shape[-1] // math.isqrt(tokens.shape[-1])).flatten(1) <= STILL
    turned = tokens[after] != tokens[after - 1]
    frequency = torch.bincount(tokens.flatten(), minlength=tokenizer.vocabulary) / tokens.numel()
    exact = 10 * math.log10(255**2 * x.numel())  # dB where one value of all is off by one; a perfect one has no bound
    moved, blind = error[after][moving].mean(), ignorant[after][moving].mean()
    return PartFigures(
        "Tokenizer",
        (
            Figure("PSNR, dB", number((10 * (4 / error.mean()).log10()).clamp(max=exact)),
                   f"above 25; {exact:.3g} where nothing is lost", 25.0, 10.0),
            Figure("LPIPS (AlexNet)", _lpips(x, y), "below 0.1", 0.1, 0.6),
            Figure("error on moving pixels", number(moved),
                   f"far below {blind:.3g}, the mean frame's" if moving.any() else "not known: nothing moved"),
            Figure("moving pixels lost", number(moved / blind), "below 0.3; near 1 small moving things are gone",
                   0.3, 1.0),
            Figure("pixels that move", number(moving.float().mean()), "a fact about the game, for the line above"),
            Figure("codebook perplexity", number(torch.special.entr(frequency).sum().exp()),
                   "tens, or a handful that loses nothing that moves", 10.0, 1.0),
            Figure("codes never used", number((frequency == 0).float().mean()),
                   "below a half, or nothing that moves is lost", 0.5, 1.0),
            Figure("still tokens that flicker", number(turned[still].float().mean()), "below 0.05: to M it is noise",
                   0.05, 0.5),
            Figure("moving tokens that turn", number(turned[~still].float().mean()), "above 0.5", 0.5, 0.0),
        ),
    )  # fmt: skip


def _lpips(x: Tensor, y: Tensor) -> float | None:
    network = read_lpips("alexnet").to(x.device)
    if x.shape[-1] < network.smallest:
        return None
    distances = [network(a, b) for a, b in zip(x.split(CHUNK), y.split(CHUNK), strict=True)]
    return number(torch.cat(distances).mean())
