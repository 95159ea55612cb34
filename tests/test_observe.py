"""How values of an observation are read: what --env.read-as changes, what is unsure, what lies outside."""

import numpy as np
import pytest
from gymnasium import spaces

from tokendream import errors
from tokendream.config.env import EnvConfig
from tokendream.envs.observe import Reader, readers
from tokendream.envs.vector import EnvError

VIEW, POSE = spaces.Box(0, 255, (7, 7, 3), np.uint8), spaces.Box(-1, 1, (4,))
LARGEST = np.finfo(np.float32).max


def of(space, read_as="auto", first=None) -> list[Reader]:
    errors.once.cache_clear()
    return readers("X-v0", space, EnvConfig(id="X-v0", read_as=read_as), lambda: first)[1]


@pytest.mark.parametrize("read_as", ["image", "map", "vector"])
def test_parts_that_cannot_be_read_so_are_read_as_ever(read_as):
    found = of(spaces.Dict({"pose": POSE, "view": VIEW}), read_as)
    assert [(reader.part.name, reader.part.modality) for reader in found] == [("pose", "vector"), ("view", read_as)]


@pytest.mark.parametrize("space", [POSE, spaces.Dict({"go": spaces.Discrete(3), "pose": POSE})])
def test_read_as_what_no_part_can_be_is_refused(space):
    with pytest.raises(EnvError, match=r"has the shape .*, which is no image's.*: leave out --env.read-as"):
        of(space, "image")


@pytest.mark.parametrize("box", [
    spaces.Box(-(2**63), 2**63 - 1, (3, 3), np.int64), spaces.Box(0, 1000, (3, 3), np.int32),
    spaces.Box(-np.inf, np.inf, (3, 3)), spaces.Box(-1, 7, (3, 3), np.int8),
])  # fmt: skip
def test_a_map_of_any_bounds_keeps_its_cells_or_refuses_them(box):
    (reader,) = of(box, "map")
    cells = np.arange(9).reshape(3, 3) - (low := int(box.low[0, 0] == -1))
    assert (reader.read(cells, "") == cells + low).all()
    with pytest.raises(EnvError, match=rf"^here: expected cell \(0, 1\) in {-low}..{255 - low}, but got 300$"):
        reader.read(np.where(cells == 1 - low, 300, cells), "here")


def test_a_cell_outside_its_sizes_is_refused():
    (reader,) = of(spaces.MultiDiscrete(np.full((2, 2), 5), start=np.full((2, 2), 3)))
    assert reader.read([[3, 4], [5, 7]], "").tolist() == [[[0, 1], [2, 4]]]
    with pytest.raises(EnvError, match=r"expected cell \(1, 0\) in 3..7, but got 8"):
        reader.read([[3, 4], [8, 7]], "")


def test_numbers_beyond_float32_are_its_largest():
    (reader,) = of(spaces.Box(-np.inf, np.inf, (3,), np.float64))
    assert reader.read(np.array([1e300, -1e39, 2]), "").tolist() == [LARGEST, -LARGEST, 2]
    (reader,) = of(VIEW, "vector")
    assert reader.read(np.full((7, 7, 3), 200, np.uint8), "").max() == 200


@pytest.mark.parametrize("first", [{}, {"view": [1, [2]]}])
def test_an_unsure_part_that_the_first_observation_lacks_is_named(first):
    with pytest.raises(EnvError, match=r"^X-v0, step 0, view: expected an observation uint8 \(7, 7, 3\), but got"):
        of(spaces.Dict({"view": VIEW}), first=first)


@pytest.mark.parametrize(
    ("box", "said"),
    [
        (
            spaces.Box(0, 255, (16, 16, 1), np.uint8),
            "16x16x1 with values up to 255, is read as a map; --env.read-as image",
        ),
        (spaces.Box(0, 1, (10, 10, 4)), "10x10x4 with values up to 1, is read as a vector; --env.read-as map"),
        (spaces.Box(0, 5, (6, 6), np.int64), ""),
        (spaces.Box(-1, 1, (6, 6)), ""),
        (spaces.Box(0, 1, (80, 3)), ""),
    ],
)
def test_what_is_unsure_is_said(box, said, capsys):
    of(box)
    err = capsys.readouterr().err
    assert said in err
    assert bool(err) == bool(said)


@pytest.mark.parametrize(("most", "kind"), [(0, "image"), (1, "map"), (31, "map"), (32, "image"), (255, "image")])
def test_a_small_array_of_bytes_is_a_picture_by_its_first_values(most, kind):
    """As docs/environments.md has it."""
    (reader,) = of(VIEW, first=np.full(VIEW.shape, most, np.uint8))
    assert reader.part.modality == kind


@pytest.mark.parametrize("axis", [0, 2])
def test_a_stack_of_pictures_is_an_image_each(axis):
    stack = np.moveaxis(np.broadcast_to(np.arange(8, dtype=np.uint8), (64, 64, 8)), -1, axis)
    found = of(spaces.Box(0, 255, stack.shape, np.uint8), "image")
    assert [reader.part.name for reader in found] == ["observation.0", "observation.1", "observation.2"]
    colours = [reader.read(stack.copy(), "")[:, 0, 0].tolist() for reader in found]
    assert colours == [[0, 1, 2], [3, 4, 5], [6, 7, 6]]
