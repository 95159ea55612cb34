"""Environments as people write them: what is meant is taken, what cannot be is refused in a line that helps."""

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tokendream import errors
from tokendream.config.config import vary
from tokendream.config.env import EnvConfig
from tokendream.config.presets import TINY
from tokendream.envs.observe import readers
from tokendream.envs.registry import make
from tokendream.envs.vector import EnvError, Envs
from tokendream.stop import Terminated

IMAGE = spaces.Box(0, 255, (64, 64, 3), np.uint8)


class Plain(gymnasium.Env[Any, Any]):
    """Shows a grey that follows the steps, ends after four; the tests override what they are about."""

    observation_space: spaces.Space[Any] = IMAGE
    action_space: spaces.Space[Any] = spaces.Discrete(3)

    def image(self) -> Any:
        return np.full((64, 64, 3), 50 + self.t, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.image(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.image(), 1.0, self.t == 4, False, {}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    errors.once.cache_clear()
    yield
    gymnasium.registry.pop("Written-v0", None)


def made(n: int = 1, base: type[Plain] = Plain, **overridden: Any) -> Envs:
    """Environments of `base` with these attributes."""
    gymnasium.registry.pop("Written-v0", None)
    kind = type("Written", (base,), overridden)
    gymnasium.register("Written-v0", entry_point=kind, disable_env_checker=True)  # type: ignore[arg-type]
    return make(vary(TINY, "env", id="Written-v0"), n, evaluation=False)


def step_with(change: Callable[[list[Any]], Any]) -> Callable[[Plain, Any], Any]:
    """A step whose five values are changed."""
    return lambda self, action: change(list(Plain.step(self, action)))


def fails(envs: Envs, steps: int = 1) -> str:
    """The one line of the fault that comes within a reset and some steps."""
    try:
        envs.reset([0])
        for _ in range(steps):
            envs.step(np.array([0]))
    except EnvError as error:
        assert "\n" not in str(error)
        return str(error)
    return "nothing failed"


def reset_without_seed(self: Plain) -> Any:
    self.t = 0
    return self.image(), {}


@pytest.mark.parametrize(
    ("overridden", "said"),
    [
        ({"reset": lambda self, **_: self.image(), "t": 0}, "step 0: reset must return (observation, info), but it "
         "returned uint8 (64, 64, 3): Gymnasium's reset"),
        ({"reset": reset_without_seed}, "step 0: reset failed: TypeError: "),
        ({"step": step_with(lambda v: (v[0], v[1], v[2], v[4]))}, "step 1: step must return five values, but it "
         "returned a tuple of 4: Gymnasium's reset"),
        ({"step": step_with(lambda v: None)}, "step 1: step must return five values, but it returned NoneType"),
    ],
)  # fmt: skip
def test_signatures_of_older_gym_are_named_with_what_wraps_them(overridden, said):
    message = fails(made(**overridden))
    assert message.startswith(f"Written-v0, {said}")
    assert "shimmy's GymV21CompatibilityV0" in message


@pytest.mark.parametrize("reward", [1.5, np.float32(1.5), np.array([1.5]), np.array([[1.5]]), np.array(1.5), [1.5]])
def test_a_reward_is_any_number_or_an_array_of_one(reward):
    envs = made(step=step_with(lambda v: (v[0], reward, *v[2:])))
    envs.reset([0])
    assert envs.step(np.array([0])).reward == 1.5


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (np.array([1.0, 2.0]), "expected a number as reward, but got array([1., 2.])"),
        (None, "expected a number as reward, but got None"),
        (np.array([]), "expected a number as reward, but got array([]"),
        (-np.inf, "expected a finite reward, but got -inf"),
        (1e39, "expected a finite reward, but got 1e+39"),  # in float32 it is not
    ],
)
def test_other_rewards_are_refused(reward, said):
    message = fails(made(step=step_with(lambda v: (v[0], reward, *v[2:]))))
    assert message.startswith(f"Written-v0, step 1: {said}")


def test_flags_may_be_arrays_of_one_and_nothing_longer():
    envs = made(step=step_with(lambda v: (*v[:2], np.array([True]), np.array([False]), v[4])))
    envs.reset([0])
    assert envs.step(np.array([0])).end.tolist() == [True]
    message = fails(made(step=step_with(lambda v: (*v[:3], np.array([True, False]), v[4]))))
    assert message.startswith("Written-v0, step 1: expected true or false as truncated, but got array")


@pytest.mark.parametrize("space", [spaces.Discrete(3, start=5), spaces.Discrete(3)])
def test_actions_are_what_the_space_samples(space):
    seen = []

    def step(self: Plain, action: Any) -> Any:
        seen.append(action)
        return Plain.step(self, action.item())

    envs = made(action_space=space, step=step)
    envs.reset([0])
    envs.step(np.array([2]))
    assert type(seen[0]) is type(space.sample())
    assert seen[0] == space.start + 2


def cells(most: int) -> Any:
    image = np.zeros((7, 7, 3), np.uint8)
    image[3, 3] = (most, 1, 0)
    return image


@pytest.mark.parametrize(("grey", "lines"), [(9, 1), (0, 1), (90, 0)])
def test_a_game_that_is_dark_to_its_end_is_flagged_once(grey, lines, capsys):
    for _ in range(2):
        envs = made(image=lambda self: np.full((64, 64, 3), grey, np.uint8))
        for _ in range(2):
            envs.reset([0])
            while not envs.step(np.array([0])).over[0]:
                pass
    assert capsys.readouterr().err.count("Written-v0: no value of a frame reached 16 of 255") == lines


def meanings_that_raise(self: Plain) -> list[str]:
    raise AttributeError("'NoneType' object has no attribute 'getMinimalActionSet'")


@pytest.mark.parametrize("meanings", [meanings_that_raise, lambda self: None, lambda self: ["ONE"], None])
def test_names_of_actions_that_cannot_be_asked_for_are_numbers(meanings):
    assert made(get_action_meanings=meanings).spaces.action_names == ("0", "1", "2")


def close_that_raises(self: Plain) -> None:
    raise AttributeError("'NoneType' object has no attribute 'finish'")


def close_that_leaves(self: Plain) -> None:
    raise SystemExit(0)


@pytest.mark.parametrize("close", [close_that_raises, close_that_leaves, None])
def test_a_close_that_fails_is_one_line(close, capsys):
    for _ in range(2):
        envs = made(n=2, close=close)
        envs.close()
        envs.close()
    err = capsys.readouterr().err
    assert err.startswith("tokendream: Written-v0: close ")
    assert err.count("\n") == 1


def leave(*_: Any, **__: Any) -> None:
    raise SystemExit(0)


@pytest.mark.parametrize(("name", "at"), [("step", "step 1"), ("reset", "step 0")])
def test_an_environment_that_calls_sys_exit_is_a_fault_of_it(name, at):
    assert fails(made(**{name: leave})) == f"Written-v0, {at}: {name} wanted to end the process: sys.exit(0)"


def test_an_environment_that_calls_sys_exit_when_it_is_made():
    with pytest.raises(EnvError, match="environment 'Written-v0' cannot be made: SystemExit: 0"):
        made(__init__=leave)


@pytest.mark.parametrize("name", ["observation_space", "action_space"])
def test_a_space_that_cannot_be_asked_for_is_a_fault_of_the_environment(name):
    with pytest.raises(EnvError, match=rf"^Written-v0: {name} failed: ZeroDivisionError"):
        made(**{name: property(lambda self: 1 // 0)})


def test_an_error_that_cannot_say_itself_is_named():
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def step(self: Plain, action: Any) -> Any:
        raise Mute

    assert fails(made(step=step)) == "Written-v0, step 1: step failed: Mute: Mute"


def test_sigterm_and_ctrl_c_are_not_taken_for_faults_of_the_environment():
    def stop(error: BaseException) -> Callable[..., None]:
        def raised(*_: Any) -> None:
            raise error

        return raised

    for error in (Terminated(143), KeyboardInterrupt()):
        envs = made(step=stop(error))
        envs.reset([0])
        with pytest.raises(type(error)):
            envs.step(np.array([0]))


def test_those_that_were_made_are_closed_where_one_more_cannot_be():
    open_now = []

    def __init__(self: Plain) -> None:
        if open_now:
            raise RuntimeError("only one emulator in a process")
        open_now.append(self)

    for _ in range(2):
        with pytest.raises(EnvError, match="only one emulator"):
            made(n=2, __init__=__init__, close=lambda self: open_now.clear())
        assert not open_now


def test_a_module_that_is_not_found_says_where_it_was_looked_for():
    with pytest.raises(EnvError, match=r"No module named 'no_such'.* \(looked for in the working folder and on"):
        make(vary(TINY, "env", id="no_such:Game-v0"), 1, evaluation=False)


@pytest.mark.parametrize("axis", [0, 2])
def test_four_pictures_in_one_are_all_seen_where_that_is_asked_for(axis, capsys):
    """Else they are an image with transparency, or one whose last three layers are shown, and a line says so."""
    errors.once.cache_clear()
    seen = np.moveaxis(np.arange(4, dtype=np.uint8)[:, None, None] * np.full((1, 32, 32), 60, np.uint8), 0, axis)
    space = spaces.Box(0, 255, seen.shape, np.uint8)
    layout, (one,) = readers("X-v0", space, EnvConfig("X-v0", size=32), lambda: None)
    assert np.unique(one.read(seen, "")).tolist() == ([0, 60, 120] if axis == 2 else [60, 120, 180])
    assert "three are shown; --env.read-as image shows them all, in two" in capsys.readouterr().err
    layout, two = readers("X-v0", space, EnvConfig("X-v0", size=32, read_as="image"), lambda: None)
    assert [part.name for part in layout.parts] == ["observation.0", "observation.1"]
    assert [np.unique(reader.read(seen, "")).tolist() for reader in two] == [[0, 60, 120], [180]]


def test_a_stack_of_more_pictures_is_told_how_to_be_read():
    with pytest.raises(EnvError, match=r"choose parts with --env\.keys, or --env\.read-as image"):
        readers("X-v0", spaces.Box(0, 255, (84, 84, 12), np.uint8), EnvConfig("X-v0"), lambda: None)
