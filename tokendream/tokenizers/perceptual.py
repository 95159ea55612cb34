"""LPIPS with the weights that come with the package. Their origin stands in assets/README.md."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from safetensors.torch import load
from torch import Tensor

from tokendream.errors import TokendreamError
from tokendream.nn.lpips import LPIPS

ASSETS = Path(__file__).resolve().parent.parent / "assets"

SHA256 = {
    "vgg16": "2fb9e57b09dad4bb3f270fd8dd289f1dc8d1d079e3d408217b3132d3298d5471",
    "alexnet": "c14e4f2628ab5bde90e5768d62fb34d46ff75a6280a9981b7ad82c77d5fff5ce",
}


class AssetError(TokendreamError):
    """A file of tokendream/assets is missing or is not the one that was shipped."""


def read_lpips(network: Literal["vgg16", "alexnet"], assets: Path = ASSETS, *, taps: int = 5) -> LPIPS:
    """The distance, as far as the first `taps` taps. Raises AssetError naming the file that cannot be taken."""
    return LPIPS(network, _read(assets / f"lpips_{network}.safetensors", SHA256[network]), taps=taps)


def _read(path: Path, sha256: str) -> dict[str, Tensor]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AssetError(f"{path} cannot be read ({error.strerror}); reinstall tokendream") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise AssetError(f"{path} is damaged: sha256 {digest}, expected {sha256}; reinstall tokendream")
    return load(data)
