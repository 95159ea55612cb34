"""The suite's own checks of shapes: at the first call of each kind in a test, and at no other."""

import checking
import jaxtyping
import numpy as np
import pytest
import torch
from beartype import beartype
from jaxtyping import Float, TypeCheckError
from torch import Tensor, nn

from tokendream.nn.lstm import LSTM


@checking.once(typechecker=beartype)
def joined(x: Float[Tensor, "B N"], y: Float[Tensor, "B N"], wrong: bool = False) -> Float[Tensor, "B N"]:
    return x if not wrong else x[:, 1:]


def test_a_wrong_shape_is_found_after_any_number_of_right_ones():
    for _ in range(3):
        joined(torch.ones(2, 3), torch.ones(2, 3))
    for x, y, wrong in (
        (torch.ones(2, 3), torch.ones(2, 4), False),
        (torch.ones(2, 3), torch.ones(2, 3, dtype=torch.int64), False),
        (torch.ones(2, 3), np.ones((2, 3)), False),
        (torch.ones(2, 3), torch.ones(2, 3), True),
    ):
        for _ in range(2):  # what was found wrong is looked at again
            with pytest.raises(TypeCheckError):
                joined(x, y, wrong)


def test_calls_are_alike_by_what_is_checked():
    def like(*values):
        return checking._like(values)

    state, other = (torch.ones(2, 3), torch.ones(2, 3)), (torch.zeros(2, 3), torch.zeros(2, 4))
    assert like(state, 3, "a") == like((torch.zeros(2, 3), torch.ones(2, 3)), 3, "a")
    assert like(state) != like(other)
    assert like(torch.ones(1)) != like(torch.ones(1).half())
    assert like(1) != like(True) != like(2)
    modules = nn.Linear(2, 2), nn.Linear(2, 2)
    assert like(modules[0]) == like(modules[0]) != like(modules[1])


def test_the_package_is_checked_and_every_test_begins_anew():
    assert jaxtyping.jaxtyped is checking.once
    assert not checking.CHECKED
    cell = LSTM(4, 4)
    h, _ = cell.step(torch.ones(2, 4), torch.zeros(2, 4), torch.zeros(2, 4))
    assert h.shape == (2, 4)
    assert checking.CHECKED
    with pytest.raises(TypeCheckError):
        cell.step(torch.ones(2, 4), torch.zeros(2, 4), torch.zeros(3, 4))
