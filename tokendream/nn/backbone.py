"""What the world model asks of a sequence backbone, whatever it is made of: state in, state out, and POP.

RetNet's state has a fixed size, the Transformer's grows with every token. Both are values: a call returns a new one
and leaves the old one as it was, so that a dream can be branched, repeated and thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Bool, Complex, Float, Int, Int64
from torch import Tensor, nn

from tokendream.nn.rotary import grid_rotation, rotation


@runtime_checkable
class State(Protocol):
    """What a backbone remembers of the past of B sequences."""

    def keep(self, mask: Bool[Tensor, " B"]) -> Any:
        """Forget the past of those sequences whose mask is False."""

    def take(self, rows: Int64[Tensor, " n"]) -> Any:
        """The past of some of the sequences, of any as often as it is named."""


class Backbone(nn.Module):
    """A causal network of N layers over tokens of width D. A block is K1 = K + A tokens: a frame's, an action's."""

    layer: ClassVar[Callable[..., nn.Module]]
    """What its layers are."""

    places: Tensor | None

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        ffn_factor: int,
        dropout: float,
        *,
        places: Int64[Tensor, "K1 3"] | None = None,
    ) -> None:
        """`places`: x, y and t of each slot of a block, for `rotary.grid_rotation` instead of running positions."""
        super().__init__()
        assert width % (2 * heads) == 0, f"width must be a multiple of {2 * heads} (twice the heads), not {width}"
        self.width, self.heads, self.head_width = width, heads, width // heads
        self.layers = nn.ModuleList(self.layer(width, heads, ffn_factor, dropout) for _ in range(layers))
        self.register_buffer("places", places, persistent=False)

    def rotation(self, position: Int[Tensor, "*L"]) -> Complex[Tensor, "*L e"]:
        """What turns the pairs of q and k at these absolute positions, in complex128."""
        if self.places is None:
            return rotation(position, self.head_width)
        return grid_rotation(position, self.places, self.head_width)

    def initial_state(self, batch: int) -> Any:
        """The empty past of `batch` sequences."""
        raise NotImplementedError

    def step(self, x: Float[Tensor, "B D"], state: Any) -> tuple[Float[Tensor, "B D"], Any]:
        """One token."""
        y, state = self.absorb(x[:, None, None], state)
        return y[:, 0, 0], state

    def absorb(
        self, x: Float[Tensor, "B T K1 D"], state: Any, tail: int | None = None
    ) -> tuple[Float[Tensor, "B T Q D"], Any]:
        """T blocks at once; the outputs at the last `tail` tokens of each (all by default)."""
        y, _, state = self.pop(x, x.new_zeros(x.shape[2] - 1, x.shape[3]), state, slice(0, 0), tail)
        return y, state

    def pop(
        self,
        x: Float[Tensor, "B T K1 D"],
        u: Float[Tensor, "*S K D"],
        state: Any,
        predict: slice = slice(None),
        tail: int | None = None,
    ) -> tuple[Float[Tensor, "B T Q D"], Float[Tensor, "B P K D"], Any]:
        """Absorb T blocks and predict the frame after each that `predict` selects, in one call.

        u are the prediction tokens, the same everywhere (K D) or those of each sequence and selected block (B P K D).
        Its definition: append u to the blocks up to and including the selected one and run the network over all.
        """
        raise NotImplementedError


class Layer(nn.Module):
    """What layers of every backbone share: the output projection and the feed-forward network.

    `ffn` applies them pre-norm, behind the output y of retention or attention:

    x += out(y);    x += W2 f(W1 norm(x))
    """

    f: Callable[[Tensor], Tensor]
    """The nonlinearity."""

    def add_ffn(self, projection: nn.Linear, ffn_factor: int, dropout: float) -> None:
        """The output projection and the feed-forward network behind `projection`, and the weights of all.

        The output projection has a bias where `projection` has one.
        """
        width = projection.in_features
        self.out = nn.Linear(width, width, bias=projection.bias is not None)
        self.norm_ffn = nn.LayerNorm(width, eps=1e-6)
        self.ffn_in = nn.Linear(width, ffn_factor * width)
        self.ffn_out = nn.Linear(ffn_factor * width, width)
        self.drop = nn.Dropout(dropout)
        for part in projection.weight.split(width):  # the paper's matrices in one product: each has its own fans
            nn.init.xavier_normal_(part)
        for linear in (self.out, self.ffn_in, self.ffn_out):
            nn.init.xavier_normal_(linear.weight)
        for linear in (projection, self.out, self.ffn_in, self.ffn_out):
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def ffn(self, x: Float[Tensor, "G L D"], y: Float[Tensor, "G L D"]) -> Float[Tensor, "G L D"]:
        """The output projection of y, and the feed-forward network, each added to what it came from."""
        x = x + self.drop(self.out(y))
        hidden = self.drop(self.f(self.ffn_in(self.norm_ffn(x))))
        return x + self.drop(self.ffn_out(hidden))
