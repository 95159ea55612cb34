"""Environments that do not obey their seed: a resume says so, contradicts nothing that was recorded, and goes on."""

import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torture.games import Faulty

from tokendream.agent.agent import Agent
from tokendream.agent.collect import Difference
from tokendream.cli.main import main
from tokendream.config.config import vary
from tokendream.config.presets import TINY
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.envs.registry import make
from tokendream.envs.toy import GRID
from tokendream.envs.vector import Transition
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.files import CheckpointError
from tokendream.runfolder.snapshot import Snapshot
from tokendream.training import run as experiment
from tokendream.training.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CPU = Compute(torch.device("cpu"), torch.float32)
GAME = 39
"""Steps of a game of Catch."""
OPEN = 12
"""Steps of the open game."""


class Whimsical:
    """Catch as it is, but for what step `at` of each game brings (the reset is step 0)."""

    def __init__(self, whim: str = "", at: int = -1) -> None:
        self._envs = make(TINY, 1, evaluation=False)
        self.n, self.spaces = 1, self._envs.spaces
        self._whim, self._at, self._t = whim, at, 0

    def reset(self, seeds: Sequence[int | None]) -> np.ndarray:
        self._t = 0
        frame = self._envs.reset(seeds)
        return 255 - frame if self._at == 0 else frame

    def step(self, actions: np.ndarray) -> Transition:
        self._t += 1
        it = self._envs.step(actions)
        if self._t != self._at:
            return it
        match self._whim:
            case "frame":
                return dataclasses.replace(it, frame=255 - it.frame)
            case "reward":
                return dataclasses.replace(it, reward=it.reward + np.float32(0.5))
            case "end":
                return dataclasses.replace(it, end=~it.end)
            case _:
                return dataclasses.replace(it, over=~it.over)

    def close(self) -> None:
        self._envs.close()


def trainer(envs: Whimsical, capacity: int = 1000) -> Trainer:
    torch.manual_seed(0)
    return Trainer(TINY, Agent.from_config(TINY, envs.spaces), envs, ReplayBuffer(capacity), CPU)


def collect(t: Trainer, steps: int) -> None:
    for _ in range(steps):
        t.update("collect")


def cut(capacity: int = 1000) -> tuple[Trainer, dict[str, np.ndarray], Snapshot]:
    """A run in the middle of its second game, its rows, and what is saved of it."""
    t = trainer(Whimsical(), capacity)
    collect(t, GAME + OPEN)
    return t, t.replay.export(t.replay.oldest, t.replay.total), t.snapshot()


def resumed(
    envs: Whimsical, rows: dict[str, np.ndarray], snapshot: Snapshot, capacity: int = 1000
) -> tuple[Trainer, Difference | None]:
    t = trainer(envs, capacity)
    t.replay.restore(rows, GAME + OPEN - len(rows["frame"]))
    return t, t.restore(snapshot)


@pytest.mark.parametrize(
    ("whim", "at", "said"),
    [
        ("start", 0, "another frame"),
        ("frame", 1, "another frame"),
        ("frame", 12, "another frame"),
        ("reward", 5, "a reward of 0.5, not 0"),
        ("reward", 12, "a reward of 0.5, not 0"),
        ("end", 9, "an end"),
        ("over", 4, "the game is over"),
        ("over", 12, "the game is over"),
    ],
)
def test_a_game_that_comes_out_differently_is_named_and_a_new_one_begins(whim, at, said):
    straight, rows, snapshot = cut()
    n = GAME + OPEN
    t, found = resumed(Whimsical(whim, at), rows, snapshot)
    assert found == Difference(at, OPEN, said)

    kept = t.replay.export(0, n)
    assert not rows["last"][-1]
    assert kept["last"][-1]
    kept["last"][-1] = False
    assert all(np.array_equal(kept[name], rows[name]) for name in rows)

    collect(t, 3)
    collect(straight, 3)
    assert t.replay.episodes() == [range(GAME), range(GAME, n), range(n, n + 3)]
    assert straight.replay.episodes() == [range(GAME), range(GAME, n + 3)]
    assert not np.array_equal(t.replay.export(n, n + 1)["frame"], straight.replay.export(n, n + 1)["frame"])
    state = t.snapshot().state["collector"]
    assert (state["game"], len(state["actions"])) == (2, 3)
    ReplayBuffer(1000).restore(t.replay.export(0, n + 3), 0)  # rows that contradict each other would be refused


@pytest.mark.parametrize("capacity", [1000, 5])
@pytest.mark.parametrize("older", [False, True])
def test_a_game_that_comes_out_the_same_goes_on(capacity, older):
    """Also where the buffer has dropped the head of it, and from a checkpoint without the hash of the last frame."""
    straight, rows, snapshot = cut(capacity)
    if older:
        del snapshot.state["collector"]["frame"]
    t, found = resumed(Whimsical(), rows, snapshot, capacity)
    assert found is None
    assert t.replay.closed == 0
    collect(t, GAME)
    collect(straight, GAME)
    ends = [s.replay.export(s.replay.oldest, s.replay.total) for s in (straight, t)]
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in rows)


@pytest.mark.parametrize(("at", "noticed"), [(3, False), (9, True), (12, True)])
def test_what_the_buffer_has_dropped_is_not_compared(at, noticed):
    """Of the open game's 12 steps it holds the last five, and the hash of where they led."""
    _, rows, snapshot = cut(5)
    t, found = resumed(Whimsical("frame", at), rows, snapshot, 5)
    assert (found == Difference(at, 12, "another frame")) == noticed == (t.replay.closed == 1)


def test_nothing_is_said_where_nothing_more_is_collected():
    _, rows, snapshot = cut()
    snapshot.state["epoch"] = TINY.epochs + 1
    assert resumed(Whimsical("frame", 3), rows, snapshot)[1] is None


def test_actions_that_nobody_took_are_refused():
    _, rows, snapshot = cut()
    actions = snapshot.state["collector"]["actions"]
    actions[2] = (actions[2] + 1) % 3
    with pytest.raises(
        CheckpointError, match=r"action of an open game is \d, and not the one in row 41 of the replay buffer"
    ):
        resumed(Whimsical(), rows, snapshot)


class Wilful(Faulty):
    """Catch whose first ball of a game falls elsewhere at every reset, whatever the seed."""

    shift = 0

    def reset(self, **settings: Any) -> Any:
        super().reset(**settings)
        self._column = (self._column + Wilful.shift) % GRID
        Wilful.shift += 1
        return self.render(), {}


class Brief(Faulty):
    """Catch whose games end after five steps once it has broken."""

    played = 0

    def reset(self, **settings: Any) -> Any:
        self.played = 0
        return super().reset(**settings)

    def step(self, action: Any) -> Any:
        *rest, truncated, info = super().step(action)
        self.played += 1
        return *rest, truncated or (self.played == 5 and Faulty.steps > 30), info


@pytest.fixture
def wilful(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in (("fault", "raise"), ("steps", 0), ("at", 30)):
        monkeypatch.setattr(Faulty, name, value)
    for game in (Wilful, Brief):
        gymnasium.register(f"{game.__name__}-v0", entry_point=game, disable_env_checker=True)  # type: ignore[arg-type]
    yield
    for game in (Wilful, Brief):
        gymnasium.registry.pop(f"{game.__name__}-v0")


def stored(store: Checkpoints) -> tuple[int, dict[str, np.ndarray], list[range]]:
    """Epoch, rows and episodes of the newest checkpoint."""
    epoch, _ = store.load(say=lambda line: None)
    replay = ReplayBuffer(TINY.collect.capacity)
    store.load_replay(epoch, replay)
    return epoch, replay.export(0, replay.total), replay.episodes()


@pytest.mark.usefixtures("wilful")
@pytest.mark.parametrize(
    ("name", "said"), [("Wilful", "after 0 of its 29 steps (another frame)"), ("Brief", "after 5 of its 29 steps (the")]
)
def test_a_run_of_such_an_environment_can_be_resumed_and_finished(tmp_path, capsys, name, said):
    """Before, the first went on from another state without a word, and the second could not be resumed at all."""
    run_dir = tmp_path / "run"
    evaluation = dataclasses.replace(TINY.evaluation, every=0)
    config = dataclasses.replace(vary(TINY, "env", id=f"{name}-v0"), checkpoint_every=1, evaluation=evaluation)
    with pytest.raises(experiment.RunError, match="step failed: RuntimeError: the game crashed; epoch 1"):
        experiment.start(config, run_dir)
    _, rows, _ = stored(Checkpoints(run_dir))
    capsys.readouterr()

    assert experiment.resume(run_dir) == 0
    out = capsys.readouterr().out
    assert out.count("does not obey its seed") == (2 if name == "Wilful" else 1)
    assert f"the open game came out differently when played again, first {said}" in out
    assert ("no films: the game with seed" in out) == (name == "Wilful")
    assert (run_dir / "evaluation" / "final.json").exists()
    assert main(["eval", str(run_dir), "--episodes", "2"]) == 0
    assert ("no films: the game with seed" in capsys.readouterr().out) == (name == "Wilful")
    of_games = [] if name == "Wilful" else ["best.mp4", "median.mp4"]
    assert sorted(film.name for film in (run_dir / "films").iterdir()) == sorted([*of_games, "dream.mp4"])

    epoch, after, episodes = stored(Checkpoints(run_dir))
    assert (epoch, episodes[0], episodes[1][0]) == (4, range(29), 29)
    assert after["last"][28]
    assert all(np.array_equal(after[column][:29], rows[column]) for column in rows if column != "last")

    shutil.rmtree(run_dir / "checkpoints" / "epoch-000004")  # the one before is as whole
    assert stored(Checkpoints(run_dir))[0] == 3
    assert experiment.resume(run_dir) == 0
    assert "nothing left to train or evaluate" in capsys.readouterr().out
