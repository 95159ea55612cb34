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
"""More values than a block has room for, each of which is a token."""

MOST_CELLS = 4096
"""Of maps. How many tokens they are is the tokenizer's business."""

MOST_CHOICES = 4096
"""Of a categorical field: each has an output of its own."""

MOST_CHANNELS = 12
"""Of a stack of pictures that is asked to be read as images."""

SMALL = 32
"""An image with a side below this may be a map, one cell a pixel."""

CODES = 32
"""A map's codes stay below this; a picture's colours do not."""

FLOAT32 = float(np.finfo(np.float32).max)


class Reader(NamedTuple):
    """One part of an observation: where it is, what it becomes, and how its values are read."""

    path: Path
    part: Part
    space: spaces.Space[Any]
    convert: Callable[[np.ndarray], np.ndarray]
    bounds: tuple[np.ndarray, np.ndarray] | None = None
    """The least and the greatest value of every category and cell, as the space counts them."""

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
        if self.bounds is not None:
            low, high = self.bounds
            outside = (array < low) | (array > high)
            if outside.any():
                at = tuple(map(int, np.argwhere(outside)[0]))
                which = f"cell {at}" if self.part.modality == "map" else f"field {at[0] if at else 0}"
                raise EnvError(f"{key}: expected {which} in {low[at]:.9g}..{high[at]:.9g}, but got {array[at]:.9g}")
        return self.convert(array)


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
    chosen = [(path, leaf) for path, leaf in chosen if _is_read(env_id, path, leaf)]
    if not chosen:
        raise EnvError(f"{env_id}: nothing in its observation space can be read: {one_line(space)}")
    if not any(_fits(config.read_as, leaf) for _, leaf in chosen):
        path, leaf = chosen[0]
        raise EnvError(
            f"{env_id}: {_name(path)} has the shape {leaf.shape}, which is no {config.read_as}'s"
            f"{', nor has another part' if len(chosen) > 1 else ''}: leave out --env.read-as"
        )
    found = [reader for path, leaf in chosen for reader in _readers(env_id, path, leaf, config, first)]
    layout = Layout(tuple(reader.part for reader in found))
    adapt.check_names(env_id, "parts", [part.name for part in layout.parts])
    maps = [reader for reader in found if reader.part.modality == "map"]
    others = [reader for reader in found if reader.part.modality in ("vector", "categorical")]
    for what, most, some in (("values", MOST_FEATURES, others), ("cells", MOST_CELLS, maps)):
        sizes = [math.prod(reader.part.shape[-2:]) for reader in some]
        if sum(sizes) > most:
            boxes = [reader.space.shape for reader in some if isinstance(reader.space, spaces.Box)]
            raise EnvError(
                f"{env_id}: expected at most {most} {what} beside images, but it has {sum(sizes):,}, most of them in "
                f"{some[int(np.argmax(sizes))].part.name}: choose parts with --env.keys"
                f"{', or --env.read-as image' if boxes and all(_channels(b, MOST_CHANNELS) for b in boxes) else ''}"
            )
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


def _fits(kind: str, leaf: spaces.Space[Any]) -> bool:
    """Whether a part can be read as this kind of array."""
    axes = len(leaf.shape or ())
    if kind == "map":
        return axes in (2, 3)
    return kind != "image" or (isinstance(leaf, spaces.Box) and _channels(leaf.shape, MOST_CHANNELS) is not None)


def _readers(
    env_id: str, path: Path, leaf: spaces.Space[Any], config: EnvConfig, first: Callable[[], Any]
) -> list[Reader]:
    """Of one part; a stack of pictures is several."""
    name, shape = _name(path), leaf.shape or ()
    if 0 in shape:
        raise EnvError(f"{env_id}: {name} has no values, its shape is {shape}: leave it out with --env.keys")
    kind: str = config.read_as if _fits(config.read_as, leaf) else "auto"
    if isinstance(leaf, spaces.Box):
        if kind == "auto":
            any_part = Reader(path, Part(name, "vector", shape), leaf, lambda x: x)
            kind = _kind(env_id, name, leaf, lambda: any_part.read(first(), f"{env_id}, step 0"))
        return _box(env_id, path, leaf, kind, config.size, most=3 if config.read_as == "image" else 4)
    sizes = adapt.sizes(leaf)
    low = np.reshape(getattr(leaf, "start", np.zeros(shape, int)), shape)
    bounds = low, low + np.reshape(sizes, shape) - 1
    if max(sizes) > MOST_CHOICES:
        raise EnvError(f"{env_id}: {name} has {max(sizes)} values, at most {MOST_CHOICES} can be told apart: leave it "
                       "out with --env.keys")  # fmt: skip
    if len(shape) in (2, 3) and kind != "vector" and max(sizes) <= 256:
        return [Reader(path, _map(name, shape), leaf, _cells(shape, low), bounds)]
    part = Part(name, "categorical", (len(sizes),), sizes)
    return [Reader(path, part, leaf, lambda x: (x - low).ravel().astype(np.int32), bounds)]


def _box(env_id: str, path: Path, box: spaces.Box, kind: str, size: int, *, most: int) -> list[Reader]:
    """Of a Box; an image of more than `most` channels is a stack of several."""
    name, shape = _name(path), box.shape
    if kind == "image":
        found = _channels(shape, MOST_CHANNELS)
        assert found is not None
        axis, n = found
        if n <= most:
            return [Reader(path, image(size, name), box, _pixels(env_id, name, box, size, axis, n))]
        stack = [range(i, min(i + 3, n)) for i in range(0, n, 3)]
        return [
            Reader(path, image(size, f"{name}.{i}"), box, _layers(_pixels(env_id, name, box, size, axis, 3), axis, own))
            for i, own in enumerate(stack)
        ]
    if kind == "map":
        low, high = box.low.astype(np.float64), box.high.astype(np.float64)
        low = np.where((high - low > 255) & (low < -255), 0, low)  # whose codes do not begin at the end of a type
        return [Reader(path, _map(name, shape), box, _cells(shape, low), (low, low + 255))]
    reach = np.maximum(np.abs(box.low.astype(np.float64)), np.abs(box.high.astype(np.float64))).ravel()
    part = Part(name, "vector", (math.prod(shape),), reach=tuple(reach.tolist()))
    return [Reader(path, part, box, lambda x: x.ravel().clip(-FLOAT32, FLOAT32).astype(np.float32))]


def _layers(convert: Callable[[np.ndarray], np.ndarray], axis: int, own: range) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: convert(x.take(own, axis))


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
        if min(sides) < SMALL and most >= CODES:
            most = int(look().max())
        if min(sides) >= SMALL or most >= CODES or most == 0:
            return "image"
        once(f"{env_id}: {name}, {'x'.join(map(str, box.shape))} with values up to {most}, is read as a map of 3 "
             "fields; --env.read-as image reads it as a picture")  # fmt: skip
        return "map"
    bounded = bool((box.low >= -1).all() and (box.high <= 255).all())
    if channels is not None and min(sides) >= SMALL and bounded and (not whole or int(box.high.max()) > 64):
        return "image"
    if whole and few:
        kind, other = "map", "image reads it as a picture"
        unsure = channels is not None and int(box.high.max()) >= CODES
    else:
        kind, other = "vector", "map reads it as cells"
        unsure = min(sides) >= 4 and bool((box.low == 0).all() and (box.high <= 255).all())
    if unsure:
        once(f"{env_id}: {name}, {'x'.join(map(str, box.shape))} with values up to {box.high.max():g}, is read as a "
             f"{kind}; --env.read-as {other}")  # fmt: skip
    return kind


def _channels(shape: tuple[int, ...], most: int = 4) -> tuple[int, int] | None:
    """(axis, number) of an image's channels; (-1, 1) where it has none; None for what is no image's shape.

    More than 4, up to `most`, are a stack of pictures, each side of which is longer.
    """
    if len(shape) == 2:
        return -1, 1
    if len(shape) != 3:
        return None
    if shape[2] <= 4:
        return 2, shape[2]
    if shape[0] <= 4:
        return 0, shape[0]
    n = min(shape[0], shape[2])
    return (0 if shape[0] == n else 2, n) if n <= most and sorted(shape)[1] > n else None


def _pixels(
    env_id: str, name: str, box: spaces.Box, size: int, axis: int, n: int
) -> Callable[[np.ndarray], np.ndarray]:
    """An image of this space, whose axis `axis` is `n` channels, as uint8 (3, size, size)."""
    low, high = float(box.low.min()), float(box.high.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = 0.0, 255.0
    scale = 1.0 if high > 1 else 255 / (high - low) if high > low else 1.0
    scaled = box.dtype != np.uint8 or scale != 1.0
    if n == 4:
        which = "channels of {} the first" if axis == 2 else "layers of {} the last"
        once(f"{env_id}: of the four {which.format(name)} three are shown; --env.read-as image shows them all, in two")

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
        x = (x - low).astype(np.uint8)
        return x[None] if x.ndim == 2 else x if first else x.transpose(2, 0, 1)

    return convert
