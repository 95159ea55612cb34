"""The tokenizer of observations of several parts: what tokens keep of each, in the part's own units."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from tokendream.evaluation.diagnosis.figures import Figure, PartFigures, number
from tokendream.evaluation.diagnosis.vision import vision
from tokendream.nn.hl_gauss import symlog
from tokendream.nn.pixels import to_float
from tokendream.tokenizers.fixed import FAR
from tokendream.tokenizers.parts import PartsTokenizer
from tokendream.tokenizers.protocol import Tokenizer


@torch.no_grad()
def parts_vision(tokenizer: PartsTokenizer, frame: UInt8[Tensor, " N *O"], follows: Bool[Tensor, " N"]) -> PartFigures:
    """Measure every part's tokens on consecutive observations: images as `vision` does, features in their units, maps
    by their cells. Choices are their own tokens."""
    decoded = tokenizer.decode(tokenizer.encode(frame))
    figures: list[Figure] = []
    split = zip(tokenizer.layout.parts, tokenizer.each, tokenizer.layout.split(frame), strict=True)
    for (part, V, real), shown in zip(split, tokenizer.layout.split(decoded), strict=True):
        if part.modality == "image":
            found = vision(V, real, follows).figures
            figures += [dataclasses.replace(figure, name=f"{part.name}: {figure.name}") for figure in found]
        elif part.modality == "vector":
            error, spread = (real - shown).abs().mean(), real.std(0).mean()
            figures.append(Figure(f"{part.name}: mean error, in its units", number(error),
                                  f"far below {spread:.3g}, its features' deviation"))  # fmt: skip
            beyond = (symlog(real).abs() > FAR).float().mean()
            figures.append(
                Figure(f"{part.name}: features beyond ±402", number(beyond), "0: they are cut off", 0.0, 0.1)
            )
        elif part.modality == "map":
            wrong = (real != shown).any(-3).float().mean()
            figures.append(Figure(f"{part.name}: cells that are another", number(wrong), "0: the book holds all", 0.0,
                                  0.1))  # fmt: skip
    return PartFigures("Tokenizer", tuple(figures))


def parts_ahead(
    tokenizer: Tokenizer, likely: Int64[Tensor, "B P K"], real: Int64[Tensor, "B P K"], before: Int64[Tensor, "B P K"]
) -> Iterator[Figure]:
    """M's likeliest tokens of the next step against the real ones, both decoded, beside copying the step before: of
    features the error in their units, of maps the cells. Nothing of images and choices."""
    if not isinstance(tokenizer, PartsTokenizer):
        return
    shown = [tokenizer.layout.split(tokenizer.decode(tokens.flatten(0, 1))) for tokens in (likely, real, before)]
    for part, ahead, true, copied in zip(tokenizer.layout.parts, *shown, strict=True):
        if part.modality == "vector":
            error, copying = ((x - true).abs().mean() for x in (ahead, copied))
            yield Figure(f"{part.name}: mean error one step ahead, in its units", number(error),
                         f"below {copying:.3g}, copying the last one")  # fmt: skip
        elif part.modality == "map":
            right, copying = ((x == true).all(-3).float().mean() for x in (ahead, copied))
            yield Figure(f"{part.name}: cells right one step ahead", number(right),
                         f"above {copying:.3f}, copying the last one")  # fmt: skip


def values_of(tokenizer: Tokenizer, tokens: Int64[Tensor, "B K"]) -> Float[Tensor, "B N"]:
    """What tokens show as numbers whose squared differences mean something: colours, and features on the scale of
    symlog; N = 0 where there are neither."""
    shown = tokenizer.decode(tokens)
    if not isinstance(tokenizer, PartsTokenizer):
        return to_float(shown).flatten(1)
    values = [tokens.new_zeros((len(tokens), 0), dtype=torch.float32)]
    for part, x in zip(tokenizer.layout.parts, tokenizer.layout.split(shown), strict=True):
        if part.modality == "image":
            values.append(to_float(x).flatten(1))
        elif part.modality == "vector":
            values.append(symlog(x))
    return torch.cat(values, dim=1)
