"""V, the VQ-VAE that turns a frame into K tokens and back; with a fixed grid in place of the codebook, `fsq`.

The caller chooses the precision with `torch.autocast`; losses, distances and codes are float32 all the same.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from tokendream.config.parts import TokenizerConfig
from tokendream.nn.conv import Decoder, Encoder
from tokendream.nn.losses import Losses
from tokendream.nn.patch import PatchDecoder, PatchEncoder
from tokendream.nn.pixels import to_float, to_uint8
from tokendream.nn.precision import raised
from tokendream.ranks import averaged
from tokendream.tokenizers.perceptual import read_lpips
from tokendream.tokenizers.quantizer import FiniteScalar, Quantizer, straight_through

CHUNK = 128
"""Frames encoded or decoded at once outside training: 64x64 frames then need about 0.4 GiB at any batch size."""

CHANGED = 0.1
"""A pixel has changed when a channel is further than this from the batch's mean frame (13 of 255)."""


class VQTokenizer(nn.Module):
    """Frame <-> K tokens, K = (S / 2**downsamples)², row by row from the top left."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config, self.vocabulary, self.code_width = config, config.codebook_size, config.code_width
        sizes, V, E = (config.channels, config.downsamples), self.vocabulary, self.code_width
        patch = config.network == "patch"
        self.encoder = PatchEncoder(*sizes) if patch else Encoder(*sizes)
        grid = FiniteScalar(V, E) if config.kind == "fsq" else None
        self.pre = nn.Conv2d(self.encoder.width, grid.width if grid else E, 1)
        self.quantizer = grid or Quantizer(V, E, revive_after=config.revive_after)
        self.post = nn.Conv2d(self.quantizer.width, self.encoder.width, 1)
        self.decoder = PatchDecoder(*sizes) if patch else Decoder(*sizes)
        self.lpips = None if config.perceptual == "none" else read_lpips(config.perceptual)
        self.cell = 1 << config.downsamples

    def encode(self, frame: UInt8[Tensor, "*B 3 S S"]) -> Int64[Tensor, "*B K"]:
        """The tokens of frames."""
        lead, S = frame.shape[:-3], frame.shape[-1]
        assert S % self.cell == 0, f"frames must be a multiple of {self.cell} pixels wide, got {S}x{S}"
        flat = frame.reshape(math.prod(lead), *frame.shape[-3:])
        with torch.no_grad():
            tokens = [
                self.quantizer.nearest(self._embed(to_float(chunk, self.pre.weight.dtype)))
                for chunk in flat.split(CHUNK)
            ]
        return torch.cat(tokens).reshape(*lead, (S // self.cell) ** 2)

    def codes(self, tokens: Int64[Tensor, "*B K"]) -> Float[Tensor, "*B K E"]:
        """The codebook vectors of tokens, without gradient: only V's own loss moves the codebook."""
        with torch.no_grad():
            return self.quantizer.codes(tokens)

    def decode(self, tokens: Int64[Tensor, "*B K"]) -> UInt8[Tensor, "*B 3 S S"]:
        """The frames that tokens stand for."""
        lead, K = tokens.shape[:-1], tokens.shape[-1]
        assert math.isqrt(K) ** 2 == K, f"a frame's tokens must form a square grid, got {K}"
        flat = tokens.reshape(math.prod(lead), K)
        with torch.no_grad():
            frames = [to_uint8(self._draw(self.quantizer.lookup(chunk))) for chunk in flat.split(CHUNK)]
        frame = torch.cat(frames)
        return frame.reshape(*lead, *frame.shape[-3:])

    def loss(self, frame: UInt8[Tensor, "B 3 S S"]) -> Losses:
        """MSE(x, x̂) + LPIPS(x, x̂) + MSE(codes, sg z) + MSE(z, sg codes), with x the frame and x̂ its reconstruction.

        Terms `reconstruction`, `perceptual`, `codebook`, `commitment`, and where they have a weight: `changed`, the
        squared error over the pixels that differ from the batch's mean frame, which are few and matter most in games
        of small moving objects; `lost`, the squared error over the pixels that are drawn wrong. Info: the perplexity
        of the batch's tokens, exp(entropy), and the share of the V codes that it uses; with revival, the number of
        codes moved. With a fixed grid there is no `codebook` and no `commitment`, and nothing to revive.

        In training mode with `revive_after` this also moves idle codes, after the loss has used the old ones.
        """
        x = to_float(frame, self.pre.weight.dtype)
        z = self._embed(x)
        tokens = self.quantizer.nearest(z)
        codes = self.quantizer.lookup(tokens)  # with a gradient into a codebook, none into z
        reconstruction = raised(self._draw(straight_through(z, codes)))
        error = (reconstruction - x).square()
        terms = {"reconstruction": error.mean()}
        if self.lpips is not None:
            terms["perceptual"] = self.config.perceptual_weight * self.lpips(x, reconstruction).mean()
        if self.config.changed_weight > 0:
            terms["changed"] = self.config.changed_weight * _changed(x, error)
        if self.config.lost_weight > 0:
            terms["lost"] = self.config.lost_weight * _lost(error)
        info = self._usage(tokens)
        if isinstance(self.quantizer, Quantizer):
            terms["codebook"] = F.mse_loss(codes, z.detach())
            terms["commitment"] = F.mse_loss(z, codes.detach())
            if self.quantizer.revive_after and self.training:
                info["revived"] = self.quantizer.revive(z.detach().flatten(0, 1), tokens.flatten()).float()
        return Losses(terms, info)

    def _embed(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B K E"]:
        return self.quantizer.bounded(raised(self.pre(self.encoder(x))).flatten(2).mT)

    def _draw(self, codes: Float[Tensor, "B K E"]) -> Float[Tensor, "B 3 S S"]:
        side = math.isqrt(codes.shape[1])
        return self.decoder(self.post(codes.mT.unflatten(2, (side, side))))

    def _usage(self, tokens: Int64[Tensor, "B K"]) -> dict[str, Float[Tensor, ""]]:
        # Not bincount: it makes the host wait for the device.
        count = torch.zeros(self.vocabulary, device=tokens.device).scatter_add_(
            0, tokens.flatten(), torch.ones(tokens.numel(), device=tokens.device)
        )
        p = count / tokens.numel()
        return {"perplexity": torch.special.entr(p).sum().exp(), "codes_used": (count > 0).float().mean()}


def _changed(x: Float[Tensor, "B 3 S S"], error: Float[Tensor, "B 3 S S"]) -> Float[Tensor, ""]:
    """Mean of `error` over pixels further than CHANGED from the batch's mean frame; 0 where there are none."""
    mask = ((x - averaged(x.mean(0))).abs().amax(1, keepdim=True) > CHANGED).float()
    return (error * mask).sum() / averaged(3 * mask.sum()).clamp(min=1)


def _lost(error: Float[Tensor, "B 3 S S"]) -> Float[Tensor, ""]:
    """Mean of `error` with each pixel weighted by its own error, without gradient through the weight: Σ e sg(e) / Σ e.

    What is drawn as something else weighs most. Where a whole building scrolls, the pixels that `_changed` picks are
    the building, and the climber on it is lost (CrazyClimber in docs/evidence.md).
    """
    weight = error.detach().mean(1, keepdim=True)
    return (error * weight).sum() / averaged(3 * weight.sum()).clamp(min=1e-12)
