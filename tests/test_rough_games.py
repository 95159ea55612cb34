"""Whole small runs of games that behave badly towards their process: nothing is lost, and one line is said."""

import functools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from torture.runs import digest

from tokendream import errors
from tokendream.cli.main import main
from tokendream.config.env import EnvConfig
from tokendream.envs.gym import GymEnvs
from tokendream.envs.pause import Pausable
from tokendream.envs.toy import Catch
from tokendream.evaluation.evaluation import Evaluation
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.training.results import RunResults

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FLAGS = ["tiny", "--collect.steps", "30", "--evaluation.every", "0", "--evaluation.episodes", "1"]
FLAGS += ["--env-id", "Rough-v0"]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    errors.once.cache_clear()
    yield
    gymnasium.registry.pop("Rough-v0", None)


def rough(**overridden: Any) -> None:
    """Catch with these attributes, under the id of FLAGS."""
    gymnasium.registry.pop("Rough-v0", None)
    kind = type("Rough", (Catch,), overridden)
    gymnasium.register("Rough-v0", entry_point=kind, disable_env_checker=True)  # type: ignore[arg-type]


def single(most: int = 1, **overridden: Any) -> list[Any]:
    """An emulator of which a process may have so many, until one is closed; returns those that are open."""
    made: list[Any] = []

    def __init__(self: Catch) -> None:
        if len(made) == most:
            raise RuntimeError("only one emulator in a process; close the other first")
        made.append(self)
        Catch.__init__(self)

    rough(__init__=__init__, close=lambda self: made.clear(), **overridden)
    return made


def train(run_dir: Path, *flags: str) -> int:
    return main(["train", *FLAGS, *flags, "--run-dir", str(run_dir)])


def test_an_emulator_that_exists_once_a_process_trains_the_same_agent(tmp_path):
    """Evaluations, in the middle too, close training's and play its open game again afterwards."""
    flags = ["--epochs", "2", "--evaluation.every", "1", "--evaluation.episodes-during", "1"]
    rough()
    assert train(tmp_path / "many", *flags) == 0
    made = single()
    assert train(tmp_path / "one", *flags) == 0
    assert not made
    one, many = digest(tmp_path / "one"), digest(tmp_path / "many")
    assert {part for part in ("agent", "replay", "state") if one[part] != many[part]} == set()
    final = Evaluation.from_json((tmp_path / "one" / "evaluation" / "final.json").read_text())
    assert final.protocol["envs"] == 1
    assert (tmp_path / "one" / "films" / "best.mp4").is_file()
    assert main(["eval", str(tmp_path / "one"), "--episodes", "2", "--no-films"]) == 0
    assert not made


def test_of_an_emulator_that_exists_twice_a_process_two_are_played_at_once(tmp_path):
    flags = ["--epochs", "2", "--collect.envs", "2", "--evaluation.every", "1", "--evaluation.episodes-during", "1"]
    rough()
    assert train(tmp_path / "many", *flags) == 0
    assert not single(2)
    assert train(tmp_path / "two", *flags) == 0
    two, many = digest(tmp_path / "two"), digest(tmp_path / "many")
    assert {part for part in ("agent", "replay", "state") if two[part] != many[part]} == set()


def test_more_environments_than_a_process_can_have_are_refused(tmp_path, capsys):
    made = single()
    assert train(tmp_path / "run", "--collect.envs", "3") == 2
    assert not made
    assert not (tmp_path / "run").exists()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "3 of them cannot be made at once, one can: lower collect.envs (environment 'Rough-v0' cannot be" in said[0]


def test_a_closed_environment_is_made_again():
    rough()
    maker = functools.partial(gymnasium.make, "Rough-v0", disable_env_checker=True)
    envs, straight = (Pausable(lambda: GymEnvs(EnvConfig("Rough-v0"), 1, maker)) for _ in range(2))
    envs.close()
    envs.close()
    assert envs.closed
    assert np.array_equal(envs.reset([4]), straight.reset([4]))
    assert np.array_equal(envs.step(np.array([1])).frame, straight.step(np.array([1])).frame)


def test_a_game_that_comes_out_differently_after_an_evaluation_ends_there(tmp_path, capsys):
    luck = iter(range(100))
    single(reset=lambda self, **_: Catch.reset(self, seed=next(luck)))
    flags = ["--epochs", "2", "--evaluation.every", "1", "--evaluation.episodes-during", "1"]
    assert train(tmp_path / "run", *flags) == 0
    assert "the open game came out differently when played again" in capsys.readouterr().out


def test_a_game_that_cannot_be_played_again_after_an_evaluation_costs_no_epoch(tmp_path, monkeypatch, capsys):
    evaluated, during = [], RunResults.during
    monkeypatch.setattr(RunResults, "during", lambda self, epoch: (during(self, epoch), evaluated.append(epoch))[0])
    single(reset=lambda self, **how: pytest.fail("out of licences") if evaluated else Catch.reset(self, **how))
    flags = ["--epochs", "3", "--checkpoint-every", "3", "--evaluation.every", "1", "--evaluation.episodes-during", "1"]
    assert train(tmp_path / "run", *flags) == 2
    assert evaluated == [1]
    assert "epoch 1 and all before it are saved" in capsys.readouterr().err


def test_an_environment_that_changes_the_folder_moves_no_file(tmp_path, monkeypatch, capsys):
    away = tmp_path / "away"
    away.mkdir()
    monkeypatch.chdir(tmp_path)

    def reset(self: Catch, **options: Any) -> Any:
        os.chdir(away)
        return Catch.reset(self, **options)

    rough(reset=reset)
    assert main(["train", *FLAGS, "--epochs", "1", "--run-dir=-run"]) == 0  # a name like an option, too
    run = tmp_path / "-run"
    assert (run / "checkpoints").is_dir()
    assert (run / "report.html").is_file()
    assert (run / "films" / "best.mp4").is_file()
    os.chdir(tmp_path)
    assert main(["eval", "./-run", "--episodes", "1"]) == 0
    os.chdir(tmp_path)
    assert main(["train", "--resume", "./-run"]) == 0
    os.chdir(tmp_path)
    assert main(["dream", "./-run", "--out", "d.png", "--at", "5", "--length", "4"]) == 0
    assert (tmp_path / "d.png").is_file()
    assert list(away.iterdir()) == []


def test_an_environment_that_leaves_is_named_and_what_was_saved_stands(tmp_path, capsys):
    steps = []

    def step(self: Catch, action: Any) -> Any:
        steps.append(action)
        if len(steps) == 70:
            raise SystemExit(0)
        return Catch.step(self, action)

    rough(step=step)
    assert train(tmp_path / "a run", "--epochs", "4", "--checkpoint-every", "1") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "tokendream: Rough-v0, step 31: step wanted to end the process: sys.exit(0); epoch 2 and all before" in err
    assert f"go on with: tokendream train --resume '{tmp_path / 'a run'}'" in err
    assert main(["train", "--resume", str(tmp_path / "a run")]) == 0


@pytest.mark.parametrize("taken", [signal.SIG_IGN, signal.SIG_DFL])
@pytest.mark.parametrize("name", ["__init__", "reset"])
def test_an_environment_that_takes_the_signals_is_stopped_all_the_same(name, taken, tmp_path, capsys):
    steps = []

    def take(self: Catch, *words: Any, **options: Any) -> Any:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, taken)
        return getattr(Catch, name)(self, *words, **options)

    def step(self: Catch, action: Any) -> Any:
        steps.append(action)
        if len(steps) == 40:
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGTERM)
        return Catch.step(self, action)

    rough(**{name: take, "step": step})
    before = signal.getsignal(signal.SIGTERM)
    assert train(tmp_path / "run", "--epochs", "4") == 138
    assert signal.getsignal(signal.SIGTERM) == before
    assert "stopped (SIGUSR1); go on with: tokendream train --resume " in capsys.readouterr().out
    assert Checkpoints(tmp_path / "run").epochs() == [1]


def test_a_fault_in_an_evaluation_costs_no_training(tmp_path, capsys):
    made = []

    def __init__(self: Catch) -> None:
        made.append(self)
        if len(made) > 2:
            raise RuntimeError("no display")
        Catch.__init__(self)

    rough(__init__=__init__)
    flags = ["--epochs", "2", "--evaluation.every", "1", "--evaluation.episodes-during", "1"]
    assert train(tmp_path / "one", *flags) == 2
    assert "no display; what was done of epoch 1 is saved" in capsys.readouterr().err
    rough()
    assert main(["train", "--resume", str(tmp_path / "one")]) == 0
    assert train(tmp_path / "two", *flags) == 0
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_another_number_of_actions_is_said(tmp_path, capsys):
    rough()
    assert train(tmp_path / "run", "--epochs", "2", "--time-limit", "0") == 0
    capsys.readouterr()

    def __init__(self: Catch) -> None:
        Catch.__init__(self)
        self.action_space = spaces.Discrete(5)

    rough(__init__=__init__)
    for argv in (["eval", str(tmp_path / "run")], ["train", "--resume", str(tmp_path / "run")]):
        assert main(argv) == 2
        err = capsys.readouterr().err
        assert err == "tokendream: Rough-v0 has 5 actions, but the run was trained with 3\n"
