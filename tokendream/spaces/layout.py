"""What an observation is: its parts, and how they lie in one array of bytes, a frame.

    one RGB image     uint8 (3, S, S), as it is
    anything else     uint8 (bytes,): the parts one behind the other, numbers little-endian

So whoever stores, copies, compares or replays frames need not know what is in them. Who looks inside (tokenizers,
pictures, diagnosis) asks the layout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

Modality = Literal["image", "vector", "categorical", "map"]

DTYPES: dict[Modality, str] = {"image": "<u1", "vector": "<f4", "categorical": "<i4", "map": "<u1"}
"""How the values of a part are stored."""

TORCH = {"<u1": torch.uint8, "<f4": torch.float32, "<i4": torch.int32}


class Part(NamedTuple):
    """A part of an observation.

    image        3 x S x S, colours in 0..255
    vector       n features, float32
    categorical  m fields, field i one of `sizes[i]` values from 0 on
    map          F x R x C: F fields a cell, each 0..255
    """

    name: str
    modality: Modality
    shape: tuple[int, ...]
    sizes: tuple[int, ...] = ()
    reach: tuple[float, ...] = ()
    """Of every feature of a vector, how far from 0 its space lets it be, on either side; inf where it has no bound."""

    @property
    def bytes(self) -> int:
        """Of its values, as stored."""
        return math.prod(self.shape) * np.dtype(DTYPES[self.modality]).itemsize


@dataclass(frozen=True)
class Layout:
    """The parts of an observation in their order in a frame."""

    parts: tuple[Part, ...]

    @property
    def is_image(self) -> bool:
        """Whether an observation is one image and nothing else."""
        return [part.modality for part in self.parts] == ["image"]

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """The shape of a frame, whose type is uint8."""
        return self.parts[0].shape if self.is_image else (sum(part.bytes for part in self.parts),)

    def pack(self, values: Mapping[str, np.ndarray]) -> UInt8[np.ndarray, "*O"]:
        """The frame of one observation."""
        if self.is_image:
            return values[self.parts[0].name]
        stored = [np.ascontiguousarray(values[p.name], DTYPES[p.modality]).reshape(-1) for p in self.parts]
        return np.concatenate([part.view(np.uint8) for part in stored])

    def unpack(self, frame: UInt8[np.ndarray, "*N"]) -> dict[str, np.ndarray]:
        """The parts of frames (leading axes stay), by name."""
        parts = self.split(torch.from_numpy(frame))
        return {part.name: x.numpy() for part, x in zip(self.parts, parts, strict=True)}

    def split(self, frame: UInt8[Tensor, "*N"]) -> list[Tensor]:
        """The parts of frames as tensors on their device, in order: "*B bytes" -> "*B ..." each."""
        if self.is_image:
            return [frame]
        found, at = [], 0
        for part in self.parts:
            own = frame[..., at : at + part.bytes]
            # A copy even where it is contiguous as it is: four bytes are one number at multiples of four only.
            stored = own.clone(memory_format=torch.contiguous_format).view(TORCH[DTYPES[part.modality]])
            found.append(stored.unflatten(-1, part.shape))
            at += part.bytes
        return found

    def join(self, parts: list[Tensor]) -> UInt8[Tensor, "*N"]:
        """The inverse of `split`."""
        if self.is_image:
            return parts[0]
        stored = [
            values.to(TORCH[DTYPES[part.modality]]).flatten(-len(part.shape)).contiguous().view(torch.uint8)
            for part, values in zip(self.parts, parts, strict=True)
        ]
        return torch.cat(stored, dim=-1)


def image(size: int, name: str = "image") -> Part:
    """An RGB image, size x size."""
    return Part(name, "image", (3, size, size))
