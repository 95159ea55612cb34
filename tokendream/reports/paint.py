"""Observations as pictures for people: images as they are, maps as coloured cells, features as lines, choices as boxes.

The parts of an observation stand side by side. Features run from the left to now, at the right edge, between -402 and
402 on the scale of symlog, so that a film shows where they came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float, UInt8

from tokendream.reports.media import GAP, columns, enlarge
from tokendream.spaces.layout import Layout, Part
from tokendream.tokenizers.fixed import FAR

SIDE = 64
"""Pixels of a picture's height, or a little more."""

PAPER, LINE, AXIS, LIT = (248, 250), (24, 90, 180), 205, (250, 176, 5)


def paint(frames: UInt8[np.ndarray, " T *O"], layout: Layout | None) -> UInt8[np.ndarray, "T 3 H W"]:
    """A film of consecutive observations; with no layout they are images already."""
    if layout is None or layout.is_image:
        return frames
    values = layout.unpack(frames)
    panels = [PAINTERS[part.modality](part, values[part.name]) for part in layout.parts]
    height = max(panel.shape[2] for panel in panels)
    height += height % 2  # films want even sizes
    even = [np.pad(p, ((0, 0), (0, 0), (0, height - p.shape[2]), (0, 0)), constant_values=GAP) for p in panels]
    film = columns(*even)
    return np.pad(film, ((0, 0), (0, 0), (0, 0), (0, film.shape[3] % 2)), constant_values=GAP)


def painted(frames: Iterable[UInt8[np.ndarray, "*O"]], layout: Layout) -> Iterator[UInt8[np.ndarray, "3 H W"]]:
    """`paint` of frames as they come: images one by one, others once all are there."""
    if layout.is_image:
        yield from frames
    else:
        yield from paint(np.stack(list(frames)), layout)


def paint_each(frames: UInt8[np.ndarray, " n *O"], layout: Layout | None) -> UInt8[np.ndarray, "n 3 H W"]:
    """Pictures of observations that do not follow each other."""
    if layout is None or layout.is_image:
        return frames
    return np.concatenate([paint(frame[None], layout) for frame in frames])


def _image(part: Part, x: UInt8[np.ndarray, "T 3 S S"]) -> UInt8[np.ndarray, "T 3 S S"]:
    return x


def _vector(part: Part, x: Float[np.ndarray, "T n"]) -> UInt8[np.ndarray, "T 3 H W"]:
    """Each feature in a band of its own; a column a step."""
    T, n = x.shape
    band = max(9, SIDE // n)
    level = np.sign(x) * np.log1p(np.abs(x)) / FAR
    row = ((1 - level.clip(-1, 1)) / 2 * (band - 1)).round().astype(int) + np.arange(n) * band
    chart = np.full((3, n * band, SIDE + T), PAPER[0], np.uint8)
    chart[:, np.arange(n) * band + band // 2] = AXIS
    for before, after, column in zip(np.vstack((row[:1], row)), row, range(SIDE, SIDE + T), strict=False):
        for a, b in zip(before, after, strict=True):
            chart[:, min(a, b) : max(a, b) + 1, column] = np.array(LINE)[:, None]
    return np.stack([chart[:, :, t + 1 : t + 1 + SIDE] for t in range(T)])


def _categorical(part: Part, x: np.ndarray) -> UInt8[np.ndarray, "T 3 H W"]:
    """A row of boxes for each field, that of its value lit."""
    T, m = x.shape
    box, most = 6, min(max(part.sizes), 32)
    film = np.full((T, 3, m * (box + 2), most * (box + 2)), PAPER[1], np.uint8)
    for i, size in enumerate(part.sizes):
        for value in range(min(size, most)):
            place = np.s_[
                i * (box + 2) + 1 : (i + 1) * (box + 2) - 1, value * (box + 2) + 1 : (value + 1) * (box + 2) - 1
            ]
            lit = x[:, i] % most == value
            film[:, :, *place] = np.where(lit[:, None], np.array(LIT), AXIS)[..., None, None]
    return film


def _map(part: Part, x: UInt8[np.ndarray, "T F R C"]) -> UInt8[np.ndarray, "T 3 H W"]:
    """A colour for every field and value; where several fields of a cell are not 0, their mean."""
    colours = np.random.default_rng(7).integers(60, 256, size=(x.shape[1], 256, 3))
    field = np.arange(x.shape[1])[:, None, None]
    shown = colours[field, x] * (x > 0)[..., None]
    cells = shown.sum(1) / np.maximum((x > 0).sum(1), 1)[..., None]
    return enlarge(cells.astype(np.uint8).transpose(0, 3, 1, 2), max(1, SIDE // max(x.shape[2:])))


PAINTERS = {"image": _image, "vector": _vector, "categorical": _categorical, "map": _map}
