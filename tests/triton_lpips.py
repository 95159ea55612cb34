"""LPIPS's Triton kernel against nn's plain layer, by Triton's interpreter on a CPU: `test_triton` runs this file."""

import json
from unittest import mock

import torch

from tokendream.kernels.lpips import TritonLPIPS
from tokendream.nn.lpips import LPIPS


def figures(layer: type[LPIPS], dtype: torch.dtype, shape: tuple[int, ...]) -> list[torch.Tensor]:
    """The distances, and the gradients of both taps."""
    torch.manual_seed(0)
    a, b = (torch.randn(shape).relu_().to(dtype) for _ in range(2))
    a[0, :, 0] = 0.0  # a black area
    a, b = (x.contiguous(memory_format=torch.channels_last).requires_grad_() for x in (a, b))
    distance = layer.unit_distance(mock.create_autospec(layer), a, b, torch.rand(shape[1]))
    gradients = torch.autograd.grad((distance * torch.rand(shape[0])).sum(), (a, b))
    return [x.detach().float() for x in (distance, *gradients)]


def main() -> None:
    found = {}
    for shape in ((2, 64, 9, 5), (3, 24, 4, 4), (1, 512, 3, 3)):
        for dtype in (torch.float32, torch.bfloat16):
            kernel, plain = (figures(layer, dtype, shape) for layer in (TritonLPIPS, LPIPS))
            found[f"{shape} {dtype}"] = [float((x - y).norm() / y.norm()) for x, y in zip(kernel, plain, strict=True)]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
