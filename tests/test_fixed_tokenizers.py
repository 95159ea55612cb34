"""Tokens of numbers and of choices, by fixed tables."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from tokendream.config.env import EnvConfig
from tokendream.config.presets import preset
from tokendream.envs.registry import spaces_of
from tokendream.nn.hl_gauss import symexp, symlog
from tokendream.spaces.layout import Part
from tokendream.tokenizers.build import build
from tokendream.tokenizers.fixed import CategoricalTokenizer, VectorTokenizer, levels


def test_values_of_a_vector_are_the_nearest_of_125():
    V = VectorTokenizer(Part("x", "vector", (4,)), 8)
    assert len(levels()) == V.vocabulary == 125
    assert torch.equal(levels(), -levels().flip(0))
    x = symexp(torch.linspace(-5.9, 5.9, 400)).view(-1, 4)
    nearest = (symlog(x)[..., None] - V.points).abs().argmin(-1)
    assert torch.equal(V.encode(x), nearest)
    assert torch.equal(V.encode(V.decode(nearest)), nearest)
    assert V.encode(torch.tensor([[0.0, 1e9, -1e9, 3e38]])).tolist() == [[62, 124, 0, 124]]
    near = V.codes(torch.tensor([[60, 61, 62, 110]]))[0]
    assert (near[1] - near[0]).norm() < (near[3] - near[0]).norm()


def test_bounded_features_are_stretched_and_others_are_not():
    """MountainCar's position and velocity, features of ±3.1 and more, and one without a bound on one side."""
    part = Part("x", "vector", (5,), reach=(1.2, 0.07, math.expm1(1.42), 28.0, math.inf))
    plain, stretched = VectorTokenizer(part, 8), VectorTokenizer(part, 8, stretched=True)
    swept = torch.linspace(-1, 1, 2001)[:, None] * torch.tensor([1.2, 0.07, math.expm1(1.42), 28.0, 402.0])
    told_apart = [[len(V.encode(swept)[:, i].unique()) for i in range(5)] for V in (plain, stretched)]
    assert told_apart[0][:2] == [35, 3]
    assert told_apart[1][:3] == [63, 63, 63]
    assert told_apart[1][2:] == told_apart[0][2:]
    assert torch.equal(stretched.encode(stretched.decode(stretched.encode(swept))), stretched.encode(swept))
    lost = (stretched.decode(stretched.encode(swept)) - swept).abs()[:, :2].amax(0)
    assert (lost < torch.tensor([1.2, 0.07]) / 25).all()
    still = VectorTokenizer(Part("x", "vector", (2,), reach=(0.0, 1e-300)), 8, stretched=True)
    assert still.encode(torch.zeros(1, 2)).tolist() == [[62, 62]]


def test_the_bounds_of_a_box_reach_its_tokens():
    env = EnvConfig(id="MountainCar-v0")
    layout = spaces_of(dataclasses.replace(preset("control"), env=env)).observation
    assert layout.parts[0].reach == pytest.approx((1.2, 0.07))
    velocity = torch.tensor([[-0.5, -0.01], [-0.5, 0.01]])
    for chosen, apart in (("control", True), ("cpu", False)):
        V, _ = build(preset(chosen).tokenizer, layout)
        tokens = V.encode(torch.from_numpy(np.stack([layout.pack({"observation": x.numpy()}) for x in velocity])))
        assert (int(tokens[1, 1] - tokens[0, 1]) > 5) is apart


def test_fields_of_a_categorical_have_codes_of_their_own():
    V = CategoricalTokenizer(Part("c", "categorical", (2,), (3, 5)), 16)
    codes = V.codes(torch.tensor([[1, 1]]))[0]
    assert not torch.equal(codes[0], codes[1])
    assert V.decode(torch.tensor([[4, 4]])).tolist() == [[2, 4]]
