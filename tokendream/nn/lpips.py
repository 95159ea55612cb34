"""LPIPS, the perceptual distance of the tokenizer's loss: a frozen network and five learned heads.

    d(a, b) = Σ_l mean_{h,w} Σ_c w_lc (â_lchw - b̂_lchw)²

over five taps l, with â the tap's relu output divided by its norm over channels.
Source: Zhang et al., arXiv 1801.03924.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tokendream.nn.precision import raised

# Per network: (stride, padding) of each convolution; convolutions that a max pooling precedes; convolutions whose
# relu is a tap; (kernel, stride) of the pooling; the smallest frame that leaves every pooling something to pool.
_Plan = tuple[tuple[tuple[int, int], ...], frozenset[int], frozenset[int], tuple[int, int], int]
_PLANS: dict[str, _Plan] = {
    "vgg16": (((1, 1),) * 13, frozenset({2, 4, 7, 10}), frozenset({1, 3, 6, 9, 12}), (2, 2), 16),
    "alexnet": (((4, 2), (1, 2), (1, 1), (1, 1), (1, 1)), frozenset({1, 2}), frozenset({0, 1, 2, 3, 4}), (3, 2), 31),
}
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class FrozenConv(nn.Module):
    """A convolution whose weights are buffers: they follow `.to(device)`, no checkpoint carries them and no optimiser
    sees them."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Float[Tensor, "M C k k"], bias: Float[Tensor, " M"], stride: int, padding: int) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.stride, self.padding = stride, padding

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B M h w"]:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


def unit(tap: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Every pixel divided by its norm over channels, in float32 or better."""
    x = raised(tap)
    return x * (x.square().sum(1, keepdim=True) + 1e-20).rsqrt()


class LPIPS(nn.Module):
    """The frozen distance. No optimiser sees its weights, and no checkpoint carries their 28 MiB."""

    def __init__(self, network: Literal["vgg16", "alexnet"], weights: Mapping[str, Tensor], *, taps: int = 5) -> None:
        """The network as far as the first `taps` taps: fewer than five are features, and no LPIPS.

        `weights`: conv0.weight, conv0.bias, ..., and head0 to head4, as `tokenizers.perceptual` reads them.
        """
        super().__init__()
        self.network = network
        plan, self._pooled, every, self._pool, self.smallest = _PLANS[network]
        self._taps = sorted(every)[:taps]
        plan = plan[: self._taps[-1] + 1]
        self.convolutions = nn.ModuleList(
            FrozenConv(weights[f"conv{i}.weight"].float(), weights[f"conv{i}.bias"].float(), stride, padding)
            for i, (stride, padding) in enumerate(plan)
        )
        for i in range(len(self._taps)):
            self.register_buffer(f"head{i}", weights[f"head{i}"].float().flatten(), persistent=False)
        self.register_buffer("shift", torch.tensor(_SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(3, 1, 1), persistent=False)

    def features(self, x: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """The taps of images in [-1, 1], in the precision that the caller's autocast chooses.

        Call it under `torch.no_grad()` for the image that needs no gradient: that saves half of the backward pass.
        Raises ValueError for images smaller than `smallest`, where a pooling would have nothing left to pool.
        """
        if min(x.shape[-2:]) < self.smallest:
            H, W = x.shape[-2:]
            raise ValueError(f"LPIPS with {self.network} needs images of {self.smallest}x{self.smallest}, got {H}x{W}")
        x = (x - self.get_buffer("shift")) / self.get_buffer("scale")
        x = x.contiguous(memory_format=torch.channels_last)
        taps = []
        for i, convolution in enumerate(self.convolutions):
            if i in self._pooled:
                x = F.max_pool2d(x, *self._pool)
            x = convolution(x).relu_()
            if i in self._taps:
                taps.append(x)
        return taps

    def distance(self, a: list[Float[Tensor, "B _ _ _"]], b: list[Float[Tensor, "B _ _ _"]]) -> Float[Tensor, " B"]:
        """d(a, b) of two images' `features`, in float32 whatever their precision.

        bf16 features are fine, bf16 differences of unit vectors are not: near equality nothing but rounding is left.
        """
        heads = (self.get_buffer(f"head{i}") for i in range(len(a)))
        distances = [self.unit_distance(*taps) for taps in zip(a, b, heads, strict=True)]
        return torch.stack(distances).sum(0)

    def unit_distance(
        self, a: Float[Tensor, "B C H W"], b: Float[Tensor, "B C H W"], weight: Float[Tensor, " C"]
    ) -> Float[Tensor, " B"]:
        """Mean over pixels of Σ_c w_c (a_c / |a| - b_c / |b|)², in float32 or better.

        ε is 1e-20 inside the roots of the norms: outside of them, a pixel whose channels are all zero (a black area
        behind dead relus) has the gradient 0/0, which only the mask of that relu happens to hide. A product and a
        sum, not a 1x1 convolution or einsum: autocast would turn those into bf16.
        """
        unit_a, unit_b = unit(a), unit(b)
        return ((unit_a - unit_b) ** 2 * weight.view(-1, 1, 1)).sum(1).mean((1, 2))

    def forward(self, a: Float[Tensor, "B 3 H W"], b: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
        """d(a, b) of images in [-1, 1]; `a` is the reference and gets no gradient."""
        with torch.no_grad():
            reference = self.features(a)
        return self.distance(reference, self.features(b))
