"""nn's norms as a GPU computes them under autocast: bf16 in and out, moments in float32.

CUDA's autocast norms in float32: the input is copied to it and the output back, 16 bytes a number more than needed. A
CPU's does not, so that there nn's own lines are these.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tokendream.nn.conv import NormSwish


class StoredLayerNorm(nn.LayerNorm):
    """A norm over the last axis, stored as x is."""

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class StoredNormSwish(NormSwish):
    """GroupNorm and swish, stored as x is."""

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        with torch.autocast(x.device.type, enabled=False):
            y = F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
            return F.silu(y).contiguous(memory_format=torch.channels_last)
