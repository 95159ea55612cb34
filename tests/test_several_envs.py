"""Experience from several environments at once: rows side by side, the same games, exact resume in the middle."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_trainer import finish

from tokendream.agent.agent import Agent
from tokendream.agent.collect import Difference
from tokendream.config.config import Config, vary
from tokendream.config.presets import TINY
from tokendream.data.batch import Segments
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.envs.registry import make
from tokendream.envs.toy import Catch
from tokendream.envs.vector import Envs, Transition
from tokendream.errors import ConfigError
from tokendream.play.library import _episodes
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.files import CheckpointError
from tokendream.training import workload
from tokendream.training.trainer import Trainer

CPU = Compute(torch.device("cpu"), torch.float32)
SHAPE = (3, 2, 2)


class Uneven(Catch):
    """Catch whose games are cut after 5 to 29 steps, as their seeds say."""

    def reset(self, **given: Any) -> Any:
        frame, info = super().reset(**given)
        self._left = int(self.np_random.integers(5, 30))
        return frame, info

    def step(self, action: Any) -> Any:
        *rest, truncated, info = super().step(action)
        self._left -= 1
        return *rest, truncated or self._left == 0, info


@pytest.fixture(autouse=True)
def _uneven() -> Iterator[None]:
    gymnasium.register("Uneven-v0", entry_point=Uneven, disable_env_checker=True)  # type: ignore[arg-type]
    yield
    gymnasium.registry.pop("Uneven-v0")


def several(n: int, **collect: Any) -> Config:
    """Preset tiny in n environments, 48 steps an epoch."""
    return vary(vary(TINY, "env", id="Uneven-v0"), "collect", envs=n, **{"steps": 48, **collect})


def trainer(config: Config, envs: Envs | None = None) -> Trainer:
    torch.manual_seed(0)
    envs = envs or make(config, config.collect.envs, evaluation=False)
    replay = ReplayBuffer.of(envs.spaces, config.collect.capacity, envs=config.collect.envs)
    return Trainer(config, Agent.from_config(config, envs.spaces), envs, replay, CPU)


def rows_of(replay: ReplayBuffer) -> dict[str, list[Any]]:
    return {name: column.tolist() for name, column in replay.export(replay.oldest, replay.total).items()}


def recorded(capacity: int, lengths: list[list[int]], steps: int) -> tuple[ReplayBuffer, dict[int, range]]:
    """Environments whose episodes have these lengths, again and again; and the whole episode of every row."""
    n = len(lengths)
    replay, episode = ReplayBuffer(capacity, SHAPE, envs=n), {}
    ends = [list(itertools.accumulate(each * steps)) for each in lengths]
    for t, env in itertools.product(range(steps), range(n)):
        row = replay.total
        begun = max((end for end in ends[env] if end <= t), default=0)
        stop = min(end for end in ends[env] if end > t)
        episode[row] = range(begun * n + env, min(stop, steps) * n, n)
        replay.add(np.full(SHAPE, row % 251, np.uint8), env, float(row), False, t + 1 == stop)
    return replay, episode


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=3), min_size=1, max_size=4),
    steps=st.integers(1, 20),
    capacity=st.integers(4, 50),
    length=st.integers(1, 8),
    sides=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    seed=st.integers(0, 2**32),
)
def test_segments_follow_one_game_each(lengths, steps, capacity, length, sides, seed):
    replay, episode = recorded(capacity, lengths, steps)
    n, oldest, total = len(lengths), replay.oldest, replay.total
    held = {row: [r for r in episode[row] if r >= oldest] for row in range(oldest, total)}
    assert list(map(tuple, replay.episodes())) == sorted({tuple(rows) for rows in held.values()})
    for align in ("start", "end"):
        segments = replay.draw(16, length, align=align, rng=np.random.default_rng(seed))
        for row, mask in zip(segments.row, segments.mask, strict=True):
            anchor = row[0 if align == "start" else -1]
            at = held[anchor].index(anchor)
            slots = slice(at, at + length) if align == "start" else slice(max(0, at + 1 - length), at + 1)
            assert row[mask].tolist() == held[anchor][slots]
            assert (np.diff(row[mask]) == n).all()
            assert (replay.rows(row[mask])["action"] == anchor % n).all()
            assert (replay.frames(row[mask])[:, 0, 0, 0].numpy() == row[mask] % 251).all()
    before, after = sides
    places = {row: (rows.index(row), len(rows) - 1 - rows.index(row)) for row, rows in held.items()}
    if after and (wanted := [row for row, (b, a) in places.items() if b >= before and a >= after]):
        assert replay.anchors(before, after).tolist() == wanted


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=3), min_size=2, max_size=4),
    steps=st.integers(1, 20),
    capacity=st.integers(4, 50),
    data=st.data(),
)
def test_restored_rows_go_on_as_the_original_would(lengths, steps, capacity, data):
    replay, _ = recorded(capacity, lengths, steps)
    cuts = data.draw(st.lists(st.integers(replay.oldest, replay.total), max_size=4).map(sorted))
    copy = ReplayBuffer(capacity, SHAPE, envs=len(lengths))
    for start, stop in itertools.pairwise([replay.oldest, *cuts, replay.total]):
        copy.restore(replay.export(start, stop), start)
    for each in (replay, copy):
        for _ in range(2 * len(lengths)):
            each.add(np.zeros(SHAPE, np.uint8), 0, 0.0, False, False)
    assert rows_of(copy) == rows_of(replay)
    assert copy.episodes() == replay.episodes()


def test_rows_of_another_number_of_environments_are_refused():
    replay, _ = recorded(50, [[3, 5], [4]], 12)
    with pytest.raises(ValueError, match="episodes contradict themselves"):
        ReplayBuffer(50, SHAPE, envs=3).restore(replay.export(0, 24), 0)
    envs = make(several(2), 2, evaluation=False)
    with pytest.raises(AssertionError, match="a replay buffer for 2 environments, not for 3"):
        trainer(several(3), envs)


@functools.cache
def uncut(config: Config) -> Trainer:
    return finish(trainer(config))


@pytest.mark.parametrize(("moment", "forget"), [(5, False), (22, True), (52, False)])
def test_going_on_from_a_checkpoint_is_going_on(moment, forget, tmp_path):
    """In the middle of three games, saved to the disk and loaded: all that follows is the same to the bit."""
    config = several(3, forget_every_epoch=forget, capacity=100)
    straight = uncut(config)
    cut, countdown = trainer(config), iter(range(moment))
    while cut.run_epoch(stop=lambda: next(countdown, None) is None):
        cut.close_epoch()
    store = Checkpoints(tmp_path)
    store.save(cut.epoch - 1, cut.snapshot(), cut.replay)
    epoch, snapshot = store.load()
    resumed = trainer(config)
    torch.manual_seed(12345)
    store.load_replay(epoch, resumed.replay)
    assert resumed.restore(snapshot) is None
    finish(resumed)
    assert rows_of(resumed.replay) == rows_of(straight.replay)
    ends = [t.snapshot() for t in (straight, resumed)]
    assert ends[0].state["collector"] == ends[1].state["collector"]
    for group, tensors in ends[0].tensors.items():
        assert all(torch.equal(tensor, ends[1].tensors[group][name]) for name, tensor in tensors.items()), group
    assert len(_episodes(resumed.replay, "training")) > 3


def games(n: int, steps: int) -> set[bytes]:
    """What whole games showed and did, where the agent does what it likes best."""
    t = trainer(several(n, temperature=1e-6, epsilon=0.0, capacity=2000))
    for _ in range(steps // n):
        t.update("collect")
    found = [t.replay.rows(np.array(rows)) for rows in t.replay.episodes()]
    return {rows["frame"].tobytes() + rows["action"].tobytes() for rows in found if rows["last"][-1]}


def test_the_games_are_the_same_however_many_are_played_at_once():
    one, two, three = (games(n, steps) for n, steps in ((1, 600), (2, 400), (3, 400)))
    assert min(len(two), len(three)) > 10
    assert two < one
    assert three < one


def test_memory_is_warmed_on_what_is_open_of_every_game():
    t = trainer(several(3, forget_every_epoch=True))
    while not (t.replay.total and t.replay.export(t.replay.total - 3, t.replay.total)["last"].any()):
        t.update("collect")
    t._collector.rewarm(t.config.dream)
    memory, C, V = t._collector.memory, t.agent.actor_critic, t.agent.tokenizer
    assert memory is not None
    newest = t.replay.export(t.replay.total - 3, t.replay.total)
    for env in range(3):
        episode = next(e for e in t.replay.episodes() if e[-1] == t.replay.total - 3 + env)
        rows = np.array(episode[-t.config.dream.burn_in :])
        if newest["last"][env]:
            assert not memory.h[env].any()
            continue
        steps = t.replay.steps(Segments(rows[None], np.ones((1, len(rows)), bool)))
        codes = V.codes(V.encode(t.replay.frames(rows[None])))
        alone = C.burn_in(codes, steps.action, steps.mask, t.config.dream)
        assert torch.allclose(memory.h[env], alone.h[0], atol=1e-6)


class Whimsical:
    """Environments of which the one given shows another frame at one step."""

    def __init__(self, envs: Envs, which: int, at: int) -> None:
        self._envs, self.n, self.spaces = envs, envs.n, envs.spaces
        self._which, self._at, self._t = which, at, 0

    def reset(self, seeds: Any) -> np.ndarray:
        return self._envs.reset(seeds)

    def step(self, actions: np.ndarray) -> Transition:
        self._t += 1
        it = self._envs.step(actions)
        frame = it.frame.copy()
        if self._t == self._at:
            frame[self._which] = 255 - frame[self._which]
        return dataclasses.replace(it, frame=frame)

    def close(self) -> None:
        self._envs.close()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_of_several_games_the_one_that_comes_out_differently_ends(which, tmp_path):
    config = several(3)
    straight = trainer(config)
    while min(len(game["actions"]) for game in straight._collector.state()["games"]) < 4 or straight.replay.total < 60:
        straight.update("collect")
    store = Checkpoints(tmp_path)
    store.save(1, straight.snapshot(), straight.replay)
    before = straight._collector.state()["games"]
    longest, own = (max(len(game["actions"]) for game in before), len(before[which]["actions"]))
    t = trainer(config, Whimsical(make(config, 3, evaluation=False), which, longest - 2))
    epoch, snapshot = store.load()
    store.load_replay(epoch, t.replay)
    found = t.restore(snapshot)
    assert found == Difference(own - 2, own, "another frame")
    after = t._collector.state()["games"]
    assert [a == b for a, b in zip(after, before, strict=True)] == [i != which for i in range(3)]
    assert after[which]["game"] == max(game["game"] for game in before) + 1
    assert t.replay.closed == 1
    total = t.replay.total
    for each in (t, straight):
        each.update("collect")
    new = t.replay.export(total, total + 3)["episode_start"]
    old = straight.replay.export(total, total + 3)["episode_start"]
    assert [(new[i] == total + i, new[i] == old[i]) for i in range(3)] == [(i == which, i != which) for i in range(3)]
    store.save(2, t.snapshot(), t.replay)
    again = ReplayBuffer.of(t._collector._envs.spaces, config.collect.capacity, envs=3)
    store.load_replay(2, again)
    assert rows_of(again) == rows_of(t.replay)


def test_open_games_of_another_number_of_environments_are_refused():
    t, other = trainer(several(2)), trainer(several(1))
    for each in (t, other):
        each.update("collect")
    snapshot = t.snapshot()
    snapshot.state["collector"] = other.snapshot().state["collector"]
    with pytest.raises(CheckpointError, match="expected the open games of 2 environments, not of 1"):
        t.restore(snapshot)


@pytest.mark.parametrize(
    ("settings", "said"), [({"envs": 5}, "divisor of collect.steps"), ({"capacity": 30}, "of 8 environments")]
)
def test_what_environments_cannot_share_is_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        vary(TINY, "collect", **{"steps": 48, "envs": 8, **settings})


def test_an_update_is_a_step_in_every_environment():
    config = several(4)
    t = trainer(config)
    assert t.schedule[0].updates == 12
    t.run_epoch()
    assert t.close_epoch()["env_steps"] == 48
    again = workload.phase("collect", 1, config, t.agent, t.replay, CPU, t._collector._envs.spaces)
    again()
    assert again.func.__self__.collector._replay.total == 8  # a step before it, and this one


def test_sticky_actions_are_those_of_the_same_game():
    """Always sticky, each game of each environment is one action held, and not all hold the same."""
    t = trainer(several(3, sticky_actions=1.0, epsilon=1.0))
    finish(t)
    rows = t.replay.export(0, t.replay.total)
    held: list[int] = []
    for episode in t.replay.episodes():
        taken = rows["action"][np.arange(episode.start, episode.stop, episode.step)]
        assert (taken == taken[0]).all()
        held.append(int(taken[0]))
    assert len(set(held)) > 1
