"""The sequence network inside M, as the config asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokendream.config.parts import WorldModelConfig
from tokendream.nn.backbone import Backbone
from tokendream.nn.post_norm import PostNormTransformer
from tokendream.nn.retention import window_rates
from tokendream.nn.retnet import RetNet
from tokendream.nn.transformer import Transformer
from tokendream.spaces.observations import Block
from tokendream.spaces.places import places

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "retnet": RetNet,
    "transformer": Transformer,
    "post-norm": PostNormTransformer,
}
"""By their names in the config."""


def make_backbone(config: WorldModelConfig, block: Block) -> Backbone:
    """A fresh network for blocks of this layout. Only what the config asks for is passed on."""
    options: dict[str, Any] = {}
    if config.positions == "grid":
        options["places"] = places(block)
    if config.shortest_window > 0:
        options["gamma"] = window_rates(config.heads, block.K1, config.shortest_window, config.longest_window)
    return BACKBONES[config.backbone](
        config.width, config.layers, config.heads, config.ffn_factor, config.dropout, **options
    )
