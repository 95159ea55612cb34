"""The Transformer of REM's successor in its later version: norms behind the branches, fewer biases.

Source: Simulus (arXiv 2502.11537), the version with attention in place of retention. POP is `Transformer.pop`.
"""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor

from tokendream.nn.transformer import Attend, Transformer, TransformerLayer


class PostNormLayer(TransformerLayer):
    """Post-norm attention, then a feed-forward network; q, k, v and out have no bias.

        x = norm(x + out(attention(x)));    x = norm(x + W2 GELU(W1 x))

    The parameters have the names of `TransformerLayer`. Dropout is where it has it.
    """

    bias = False

    def forward(
        self, x: Float[Tensor, "B L D"], attend: Attend, wanted: Int64[Tensor, " Q"] | None = None
    ) -> Float[Tensor, "B Q D"]:
        y = self.drop(attend(*self.split(x, wanted))).transpose(1, 2).flatten(2)
        x = self.norm_attention((x if wanted is None else x[:, wanted]) + self.drop(self.out(y)))
        hidden = self.drop(self.f(self.ffn_in(x)))
        return self.norm_ffn(x + self.drop(self.ffn_out(hidden)))


class PostNormTransformer(Transformer):
    """N causal post-norm layers; run as `Transformer` is."""

    layer = PostNormLayer
