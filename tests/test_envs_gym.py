"""Any Gymnasium environment: what is accepted, how it is shown, and what is said about the rest."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from tokendream.config.config import Config, vary
from tokendream.config.presets import TINY
from tokendream.envs.registry import make
from tokendream.envs.resize import _coverage, resize
from tokendream.envs.vector import EnvError, Envs

IMAGE = spaces.Box(0, 255, (96, 128, 3), np.uint8)


class Scripted(gymnasium.Env[Any, Any]):
    """Ends after 5 steps; shows its step number and the last action; breaks as it is told to."""

    def __init__(
        self, space: spaces.Space[Any] = IMAGE, actions: spaces.Space[Any] | None = None, fault: str = "", key: str = ""
    ) -> None:
        self.observation_space = space
        self.action_space = actions or spaces.Discrete(4, start=3)
        self.fault, self.key, self.t = fault, key, 0

    def observation(self, value: int) -> Any:
        image = np.full(IMAGE.shape, value, np.uint8)
        return {self.key: image, "mission": 0} if self.key else image

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self.observation(100), {}

    def step(self, action: int) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.t += 1
        observation, reward = self.observation(10 * self.t + int(action)), 1.5
        if self.t == 3:
            if self.fault == "raise":
                raise RuntimeError("the game\ncrashed")
            if self.fault == "shape":
                observation = observation[:50]
            if self.fault == "dtype":
                observation = observation.astype(np.float32)
            if self.fault == "none":
                observation = None
            if self.fault == "nan":
                reward = float("nan")
            if self.fault == "text":
                reward = "much"  # type: ignore[assignment]
        return observation, reward, self.t == 5 and self.fault != "truncate", self.t == 5, {}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    gymnasium.register("Scripted-v0", entry_point=Scripted, disable_env_checker=True)  # type: ignore[arg-type]
    yield
    for env_id in ("Scripted-v0", "Variant-v0"):
        gymnasium.registry.pop(env_id, None)


def scripted(n: int = 1, max_frames: int = 1000, **kwargs: Any) -> Envs:
    gymnasium.registry.pop("Variant-v0", None)
    gymnasium.register("Variant-v0", entry_point=Scripted, kwargs=kwargs, disable_env_checker=True)  # type: ignore[arg-type]
    return make(config("Variant-v0", max_frames), n, evaluation=False)


def config(env_id: str, max_frames: int = 1000) -> Config:
    return vary(TINY, "env", id=env_id, max_frames=max_frames)


def test_steps_rewards_and_start_of_the_actions() -> None:
    envs = make(config("Scripted-v0"), 2, evaluation=False)
    assert envs.spaces.actions.n == 4
    assert envs.spaces.action_names == ("0", "1", "2", "3")
    assert (envs.reset([0, 1]) == 100).all()
    for t in range(1, 6):
        transition = envs.step(np.array([0, 2]))
        assert (transition.frame[0] == 10 * t + 3).all()
        assert (transition.frame[1] == 10 * t + 5).all()
        assert transition.reward.tolist() == [1.5, 1.5]
        assert transition.end.tolist() == transition.over.tolist() == [t == 5] * 2
    with pytest.raises(EnvError, match=r"^Scripted-v0, step 6: actions must lie in 0..3, not \[0, 4\]"):
        envs.step(np.array([0, 4]))
    transition = envs.step(np.array([0, 0]))
    assert transition.reward.tolist() == [0, 0]
    assert not transition.end.any()
    assert transition.over.all()
    assert (transition.frame[0] == 53).all()


def test_truncated_is_over_but_no_end() -> None:
    for envs, steps in ((scripted(fault="truncate"), 5), (scripted(max_frames=2), 2)):
        envs.reset([0])
        for _ in range(steps - 1):
            assert not envs.step(np.array([0])).over[0]
        transition = envs.step(np.array([0]))
        assert transition.over[0]
        assert not transition.end[0]


def test_atari_by_its_gymnasium_id() -> None:
    envs = make(config("ALE/Pong-v5"), 1, evaluation=False)
    assert envs.spaces.action_names[0] == "NOOP"
    assert envs.reset([0]).any()
    envs.close()


def test_names_of_the_actions() -> None:
    assert make(TINY, 1, evaluation=False).spaces.action_names == ("STAY", "LEFT", "RIGHT")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raise", "step failed: RuntimeError: the game crashed"),
        ("shape", r"expected an observation uint8 \(96, 128, 3\), but got uint8 \(50, 128, 3\)"),
        ("dtype", r"but got float32 \(96, 128, 3\)"),
        ("none", "but got NoneType"),
        ("nan", "expected a finite reward, but got nan"),
        ("text", "expected a number as reward, but got 'much'"),
    ],
)
def test_faults_name_the_step(fault: str, said: str) -> None:
    envs = scripted(fault=fault)
    envs.reset([0])
    envs.step(np.array([0]))
    envs.step(np.array([0]))
    with pytest.raises(EnvError, match=f"^Variant-v0, step 3: .*{said}"):
        envs.step(np.array([0]))


@pytest.mark.parametrize(
    ("env_id", "said"),
    [
        ("Scriptd-v0", "nearest: Scripted-v0"),
        ("tokendream/Catsh-v0", "nearest: tokendream/Catch-v0"),
        ("gym:Catch", "nearest: tokendream/Catch-v0"),
        ("CartPole-v9", "nearest: CartPole-v1"),
        ("no/such-v0", "unknown environment 'no/such-v0'"),
        ("gym:not an id!", "unknown environment 'not an id!'"),
        ("no_such_module:Game-v0", "cannot be imported: No module named 'no_such_module'"),
        ("atri:Breakout", "'atri' is no module, nor a family of environments; nearest: atari"),
        ("json:Game-v0", "unknown environment 'json:Game-v0'"),
    ],
)
def test_unknown_ids(env_id: str, said: str) -> None:
    with pytest.raises(EnvError, match=said) as error:
        make(config(env_id), 1, evaluation=False)
    assert "\n" not in str(error.value)


OWN = """
import gymnasium

class Arm(gymnasium.Env):
    def __init__(self):
        gymnasium.make("NoSuchPart-v0")

gymnasium.register("Own-v0", entry_point=Arm)
gymnasium.register("Pic-v0", entry_point="own_package.pictures:Picture")
"""


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "own_package.py"
    sys.modules.pop("own_package", None)
    for env_id in ("Own-v0", "Pic-v0"):
        gymnasium.registry.pop(env_id, None)


def test_a_misspelt_id_of_ones_own_module_is_told_what_that_registers(own_package: Path) -> None:
    own_package.write_text(OWN)
    for _ in range(2):  # the second time the module has been imported before
        with pytest.raises(EnvError, match=r"^unknown .* 'own_package:Foo-v0'; own_package registers Own-v0, Pic-v0$"):
            make(config("own_package:Foo-v0"), 1, evaluation=False)
    with pytest.raises(EnvError, match=r"'json:Game-v0'; nearest: [\w, -]*$"):
        make(config("json:Game-v0"), 1, evaluation=False)
    # Not itself, but what it is made of is unknown.
    with pytest.raises(EnvError, match=r"^environment 'own_package:Own-v0': .*NoSuchPart"):
        make(config("own_package:Own-v0"), 1, evaluation=False)


def test_an_error_in_ones_own_module_names_file_and_line(own_package: Path) -> None:
    for fault, said in (("1 / 0", "ZeroDivisionError: division by zero"), ("json.loads('')", "JSONDecodeError: .*")):
        own_package.write_text(f"import json\n\n{fault}\n")
        importlib.invalidate_caches()
        place = re.escape(f" ({own_package}, line 3)")
        with pytest.raises(EnvError, match=f"^environment 'own_package:Own-v0' cannot be made: {said}{place}$"):
            make(config("own_package:Own-v0"), 1, evaluation=False)


def test_an_environment_that_cannot_be_made() -> None:
    with pytest.raises(EnvError, match="'Variant-v0' cannot be made: TypeError"):
        scripted(no_such_argument=1)


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_resize_is_the_mean_of_the_area(height: int, width: int, size: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(256, size=(height, width, 3)).astype(np.uint8)
    got = resize(image, size)
    # By definition: enlarge so that areas are whole pixels, then average.
    fine = image.repeat(size, 0).repeat(size, 1).astype(np.float64)
    mean = fine.reshape(size, height, size, width, 3).mean((1, 3))
    assert got.shape == (size, size, 3)
    assert np.abs(got - mean).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("height", "width"), [(1080, 1920), (600, 800), (513, 64), (17000, 3), (1024, 1920), (512, 65)]
)
def test_large_images_are_the_mean_of_the_area_too(height: int, width: int) -> None:
    """Whole rows are summed as integers there, which is only another way to count."""
    image = np.random.default_rng(1).integers(256, size=(height, width, 3)).astype(np.uint8)
    image[: height // 2] = 255  # the largest sums
    down = _coverage(height, 64) @ image.reshape(height, width * 3).astype(np.float64)
    mean = _coverage(width, 64) @ down.reshape(64, width, 3)
    got = resize(image, 64)
    assert np.abs(got - mean).max() <= 0.5 + 1e-6
    assert (got != np.rint(mean)).mean() < 1e-3  # where a mean lies between two values


def test_resize_keeps_what_fits() -> None:
    image = np.random.default_rng(0).integers(256, size=(64, 64, 3)).astype(np.uint8)
    assert np.array_equal(resize(image, 64), image)
    assert np.array_equal(resize(image.repeat(3, 0).repeat(2, 1), 64), image)
    assert (resize(np.full((210, 160, 3), 255, np.uint8), 64) == 255).all()
