"""Which tokenizer an observation gets: of its images that of the config, of all else the one of its modality."""

from __future__ import annotations

from tokendream.config.parts import TokenizerConfig
from tokendream.errors import require
from tokendream.spaces.layout import Layout, Part
from tokendream.spaces.observations import Slot, grid_slots
from tokendream.tokenizers.cells import CellTokenizer
from tokendream.tokenizers.dictionary import DictionaryTokenizer
from tokendream.tokenizers.fixed import CategoricalTokenizer, VectorTokenizer
from tokendream.tokenizers.parts import FittedParts, PartsTokenizer, TrainedParts
from tokendream.tokenizers.pretrained import PretrainedTokenizer
from tokendream.tokenizers.protocol import Fitted, Learned, Tokenizer
from tokendream.tokenizers.vq import VQTokenizer

IMAGES: dict[str, type[VQTokenizer | DictionaryTokenizer]] = {
    "vq": VQTokenizer,
    "fsq": VQTokenizer,
    "dictionary": DictionaryTokenizer,
    "pretrained": PretrainedTokenizer,
}
"""Tokenizers of images, by their names in the config."""


def build(config: TokenizerConfig, layout: Layout) -> tuple[Tokenizer, tuple[Slot, ...]]:
    """A fresh tokenizer of these observations, and the slots of its tokens.

    Raises ConfigError where features of images are asked for and there is no image.
    """
    seen = {part.modality for part in layout.parts}
    require(config.kind != "pretrained" or "image" in seen, "tokenizer.kind",
            "another kind where an observation has no image", config.kind)  # fmt: skip
    images: Tokenizer | None = None
    each: list[Tokenizer] = []
    slots: list[Slot] = []
    for part in layout.parts:
        V: Tokenizer
        if part.modality == "image":
            V = images = images or IMAGES[config.kind](config)
            side = part.shape[-1] >> config.downsamples
            slots += grid_slots(part.name, "image", side, side, V.vocabulary)
        else:
            V = fixed = _fixed(config, part)
            slots += fixed.slots
        each.append(V)
    if layout.is_image:
        return each[0], tuple(slots)
    kind = PartsTokenizer
    if any(isinstance(V, Learned) for V in each):
        kind = TrainedParts
    elif any(isinstance(V, Fitted) for V in each):
        kind = FittedParts
    return kind(layout, each, tuple(slots)), tuple(slots)


def _fixed(config: TokenizerConfig, part: Part) -> VectorTokenizer | CategoricalTokenizer | CellTokenizer:
    if part.modality == "vector":
        return VectorTokenizer(part, config.code_width, stretched=config.stretched)
    if part.modality == "categorical":
        return CategoricalTokenizer(part, config.code_width)
    _, *cells = part.shape
    side = config.map_cells if all(n % config.map_cells == 0 for n in cells) else 1
    return CellTokenizer(part, config.codebook_size, config.code_width, side)
