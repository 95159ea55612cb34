"""Observation spaces of Gymnasium as parts of a frame: what each leaf is read as, and how its values are read.

    image        colours in 0..255, or floats in 0..1, -1..1 or 0..255, grey or with channels first or last
    map          whole numbers in two axes, one or several fields a cell
    categorical  Discrete, MultiDiscrete, MultiBinary
    vector       every other Box, flattened

Text is left out. What a space does not settle (small RGB images may be codes of a map) is settled by a first
observation, and said.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from tokendream.config.env import EnvConfig
from tokendream.envs import adapt
from tokendream.envs.adapt import Path
from tokendream.envs.resize import resize
from tokendream.envs.vector import EnvError
from tokendream.errors import nearest, once, one_line
from tokendream.spaces.layout import Layout, Part, image

MOST_FEATURES = 700
"""More values than a block has room for."""

MOST_CHOICES = 4096
"""Of a categorical field: each has an output of its own."""

LONG = 300
"""Tokens beside an image from which on a block is long: worth a line."""


class Reader(NamedTuple):
    """One part of an observation: where it is, what it becomes, and how its values are read."""

    path: Path
    part: Part
    space: spaces.Space[Any]
    convert: Callable[[np.ndarray], np.ndarray]

    def read(self, observation: Any, where: str) -> np.ndarray:
        """The values of this part. Raises EnvError naming place and key for what does not lie in its space."""
        value, expected = adapt.get(observation, self.path), self.space
        key = f"{where}, {self.part.name}" if self.path else where
        if isinstance(expected, spaces.Box) and expected.dtype == np.uint8:
            array = value
            if not isinstance(value, np.ndarray) or value.shape != expected.shape or value.dtype != np.uint8:
                got = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
                raise EnvError(f"{key}: expected an observation uint8 {expected.shape}, but got {got}")
        else:
            try:
                array = np.asarray(value, np.float64)
            except (TypeError, ValueError):
                raise EnvError(f"{key}: expected numbers, but got {one_line(repr(value))}") from None
            shape = expected.shape or ()
            if [n for n in array.shape if n != 1] != [n for n in shape if n != 1]:
                raise EnvError(f"{key}: expected an observation of shape {shape}, but got one of {array.shape}")
            if not np.isfinite(array).all():
                bad = array.ravel()[~np.isfinite(array.ravel())]
                raise EnvError(f"{key}: expected finite numbers, but got {bad[0]}")
            array = array.reshape(shape)
        values = self.convert(array)
        if self.part.sizes and self.part.modality == "categorical":
            outside = (values < 0) | (values >= np.array(self.part.sizes))
            if outside.any():
                i = int(outside.argmax())
                raise EnvError(f"{key}: expected field {i} in 0..{self.part.sizes[i] - 1}, but got {int(values[i])}")
        return values


def readers(
    env_id: str, space: spaces.Space[Any], config: EnvConfig, first: Callable[[], Any]
) -> tuple[Layout, list[Reader]]:
    """How observations of this space are read; `first` gives one, where the space alone does not say.

    Raises EnvError naming the part that cannot be read, and what would help.
    """
    leaves = list(adapt.leaves(space))
    wanted = [key.strip() for key in config.keys.split(",") if key.strip()]
    names = [_name(path) for path, _ in leaves]
    for key in wanted:
        if key not in names:
            raise EnvError(f"{env_id}: there is no part {key!r} (env.keys); nearest: {nearest(key, names)}")
    chosen = [(path, leaf) for path, leaf in leaves if not wanted or _name(path) in wanted]
    found = [_reader(env_id, path, leaf, config, first) for path, leaf in chosen if _is_read(env_id, path, leaf)]
    if not found:
        raise EnvError(f"{env_id}: nothing in its observation space can be read: {one_line(space)}")
    layout = Layout(tuple(reader.part for reader in found))
    beside = sum(math.prod(part.shape[-2:]) for part in layout.parts if part.modality != "image")
    boxes = [r.space.shape for r in found if isinstance(r.space, spaces.Box) and r.part.modality != "image"]
    image_too = ", or --env.read-as image" if boxes and all(map(_channels, boxes)) else ""
    how = f"choose parts with --env.keys{image_too}"
    if beside > MOST_FEATURES:
        largest = max((p for p in layout.parts if p.modality != "image"), key=lambda p: math.prod(p.shape[-2:]))
        raise EnvError(
            f"{env_id}: expected at most {MOST_FEATURES} values beside images, but it has {beside:,}, most of them in "
            f"{largest.name}: {how}"
        )
    if beside > LONG:
        once(f"{env_id}: {beside} tokens a step will be slow: {how}")
    return layout, found


def _name(path: Path) -> str:
    return ".".join(map(str, path)) or "observation"


def _is_read(env_id: str, path: Path, leaf: spaces.Space[Any]) -> bool:
    if isinstance(leaf, spaces.Text):
        once(f"{env_id}: {_name(path)} is text, which is left out")
        return False
    if not isinstance(leaf, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise EnvError(
            f"{env_id}: {_name(path)} is a {type(leaf).__name__}, which cannot be read: leave it out with --env.keys, "
            "or change it with gymnasium.wrappers.TransformObservation"
        )
    return True


def _reader(env_id: str, path: Path, leaf: spaces.Space[Any], config: EnvConfig, first: Callable[[], Any]) -> Reader:
    name, shape = _name(path), leaf.shape or ()
    if 0 in shape:
        raise EnvError(f"{env_id}: {name} has no values, its shape is {shape}: leave it out with --env.keys")
    if isinstance(leaf, spaces.Box):
        return _box(env_id, path, leaf, config, first)
    sizes = adapt.sizes(leaf)
    low = np.ravel(getattr(leaf, "start", np.zeros(len(sizes), int)))
    if max(sizes) > MOST_CHOICES:
        raise EnvError(f"{env_id}: {name} has {max(sizes)} values, at most {MOST_CHOICES} can be told apart: leave it "
                       "out with --env.keys")  # fmt: skip
    if len(shape) in (2, 3) and config.read_as in ("auto", "map") and max(sizes) <= 256:
        return Reader(path, _map(name, shape), leaf, _cells(shape, low.reshape(shape)))
    part = Part(name, "categorical", (len(sizes),), sizes)
    return Reader(path, part, leaf, lambda x: (x.ravel() - low).astype(np.int32))


def _box(env_id: str, path: Path, box: spaces.Box, config: EnvConfig, first: Callable[[], Any]) -> Reader:
    name = _name(path)
    kind: str = config.read_as
    if kind == "auto":
        kind = _kind(env_id, name, box, lambda: adapt.get(first(), path))
    if kind == "image" and _channels(box.shape) is None:
        raise EnvError(f"{env_id}: {name} has the shape {box.shape}, which is no image's: --env.read-as vector")
    if kind == "image":
        return Reader(path, image(config.size, name), box, _pixels(env_id, name, box, config.size))
    if kind == "map":
        if len(box.shape) not in (2, 3):
            raise EnvError(f"{env_id}: {name} has the shape {box.shape}, which is no map's: --env.read-as vector")
        low = box.low if np.isfinite(box.low).all() else np.zeros(box.shape)
        return Reader(path, _map(name, box.shape), box, _cells(box.shape, low))
    n = math.prod(box.shape)
    return Reader(path, Part(name, "vector", (n,)), box, lambda x: x.ravel().astype(np.float32))


def _kind(env_id: str, name: str, box: spaces.Box, look: Callable[[], Any]) -> str:
    """What a Box most likely is."""
    whole = np.issubdtype(box.dtype, np.integer) or box.dtype == bool
    few = bool((box.high.astype(float) - box.low.astype(float) <= 255).all())
    if len(box.shape) not in (2, 3) or min(box.shape) == max(box.shape) == 1:
        return "vector"
    channels = _channels(box.shape)
    sides = box.shape if channels is None else tuple(n for axis, n in enumerate(box.shape) if axis != channels[0])
    if box.dtype == np.uint8 and channels is not None and len(box.shape) == 3 and channels[1] == 3:
        most = int(box.high.max())
        if min(sides) < adapt.SMALL and most >= adapt.CODES:
            seen = np.asarray(look())
            most = int(seen.max()) if seen.size else most
        if min(sides) >= adapt.SMALL or most >= adapt.CODES or most == 0:
            return "image"
        once(f"{env_id}: {name}, {'x'.join(map(str, box.shape))} with values up to {most}, is read as a map of 3 "
             "fields; --env.read-as image reads it as a picture")  # fmt: skip
        return "map"
    bounded = bool((box.low >= -1).all() and (box.high <= 255).all())
    if channels is not None and min(sides) >= adapt.SMALL and bounded and (not whole or int(box.high.max()) > 64):
        return "image"
    return "map" if whole and few else "vector"


def _channels(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """(axis, number) of an image's channels; (-1, 1) where it has none; None for what is no image's shape."""
    if len(shape) == 2:
        return -1, 1
    if len(shape) != 3:
        return None
    if shape[2] <= 4:
        return 2, shape[2]
    return (0, shape[0]) if shape[0] <= 4 else None


def _pixels(env_id: str, name: str, box: spaces.Box, size: int) -> Callable[[np.ndarray], np.ndarray]:
    """An image of this space as uint8 (3, size, size)."""
    channels = _channels(box.shape)
    assert channels is not None
    axis, n = channels
    low, high = float(box.low.min()), float(box.high.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = 0.0, 255.0
    scale = 1.0 if high > 1 else 255 / (high - low) if high > low else 1.0
    scaled = box.dtype != np.uint8 or scale != 1.0
    if n == 4:
        once(f"{env_id}: of the four channels of {name} the first three are shown" if axis == 2 else
             f"{env_id}: of the four layers of {name} the last three are shown")  # fmt: skip

    def convert(x: np.ndarray) -> np.ndarray:
        if scaled:
            x = ((x - (low if scale != 1.0 else 0.0)) * scale).round().clip(0, 255).astype(np.uint8)
        if x.ndim == 2:
            x = x[..., None]
        elif axis == 0:
            x = x[-3:].transpose(1, 2, 0)
        x = x[..., :3]
        if x.shape[-1] < 3:
            x = np.concatenate([x] * 3, axis=-1)[..., :3]
        return resize(np.ascontiguousarray(x), size).transpose(2, 0, 1)

    return convert


def _map(name: str, shape: tuple[int, ...]) -> Part:
    """A map; where it has three axes, the smaller of the first and the last counts the fields."""
    if len(shape) == 2:
        return Part(name, "map", (1, *shape))
    return Part(name, "map", shape if shape[0] < shape[2] else (shape[2], *shape[:2]))


def _cells(shape: tuple[int, ...], low: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    first = len(shape) == 3 and shape[0] < shape[2]

    def convert(x: np.ndarray) -> np.ndarray:
        x = (x - low).clip(0, 255).astype(np.uint8)
        return x[None] if x.ndim == 2 else x if first else x.transpose(2, 0, 1)

    return convert
