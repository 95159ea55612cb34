"""Actions of every Gymnasium space: their components, what the environment gets for them, and what is refused."""

import numpy as np
import pytest
from any_spaces import KINDS
from gymnasium import spaces

from tokendream.envs.choices import BINS, Choices
from tokendream.envs.vector import EnvError

INF = np.inf


@pytest.mark.parametrize(
    ("space", "sizes", "names"),
    [
        (spaces.Discrete(4, start=2), (4,), ("action",)),
        (spaces.MultiDiscrete([3, 2]), (3, 2), ("action[0]", "action[1]")),
        (spaces.MultiBinary(2), (2, 2), ("action[0]", "action[1]")),
        (spaces.Box(-2, 1, (2,), np.float32), (BINS, BINS), ("action[0]", "action[1]")),
        (spaces.Box(-1, 1, (17,), np.float32), (11,) * 17, tuple(f"action[{i}]" for i in range(17))),
        (KINDS["Nested"][1], (BINS, BINS, 4), ("drive[0]", "drive[1]", "gear")),
    ],
)
def test_components_of_an_action_and_what_the_environment_gets(space, sizes, names):
    choices = Choices("X-v0", space)
    assert (choices.sizes, choices.names) == (sizes, names)
    rng = np.random.default_rng(0)
    for action in (0, choices.space.n - 1, *choices.space.random(rng, 20).tolist()):
        given = choices.to_env(action)
        assert space.contains(given)
        assert type(given) is type(space.sample())


def test_a_box_is_scaled_to_its_bounds():
    choices = Choices("X-v0", spaces.Box(np.array([-2.0, 0.0]), np.array([1.0, 8.0]), dtype=np.float64))
    assert choices.to_env(0).tolist() == [-2, 0]
    assert choices.to_env(choices.space.n - 1).tolist() == [1, 8]
    assert choices.to_env(25 + 25 * BINS).tolist() == [-0.5, 4]


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (spaces.Box(-INF, 1, (2,)), "action of its actions has no bounds: gymnasium.wrappers.TransformAction"),
        (spaces.Dict({"say": spaces.Text(3)}), "say of its actions is a Text"),
        (spaces.Discrete(10**9), "choices, but action of its actions has 1000000000: gymnasium.wrappers"),
        (spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(-1, 1, (200,))}), "components, most of them in b: more"),
        (spaces.MultiDiscrete([60000] * 5), "its actions have 5 components, most of them in action: more than 128, or"),
        (spaces.Box(-1.7e308, 1.7e308, (1,), np.float64), "action of its actions has bounds too far apart: gymnasium"),
        (spaces.Box(-(2**63), 2**63 - 1, (1,), np.int64), "action of its actions has bounds too far apart: gymnasium"),
        (
            spaces.Dict({"a": spaces.MultiBinary(2), "a[0]": spaces.Discrete(2)}),
            "components of an action are called a[0]",
        ),
        (spaces.Dict(), "its action space is empty, which leaves nothing to choose: Dict()"),
    ],
)
def test_actions_that_cannot_be_chosen_are_refused(space, said):
    with pytest.raises(EnvError) as caught:
        Choices("X-v0", space)
    assert said in str(caught.value)
