"""`tokendream envs check`: the table of tokens, and what looks wrong in random play."""

import io
import itertools
import re
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from rich.console import Console

from tokendream.cli import envs
from tokendream.cli.flags import parse_envs
from tokendream.cli.main import main
from tokendream.config.config import vary
from tokendream.config.presets import CPU, preset
from tokendream.reports import env_check
from tokendream.reports.display import roughly
from tokendream.reports.env_check import TokenGroup, check
from tokendream.training import timing

MEASURE = timing.measure


class Odd(gymnasium.Env):
    """Twelve steps of everything that deserves a word."""

    observation_space = spaces.Dict({
        "board": spaces.Box(0, 3, (18, 18), np.uint8),
        "inner": spaces.Tuple((spaces.Discrete(4, start=1), spaces.Box(-1, 1, (3,), np.float32))),
        "say": spaces.Text(9),
    })  # fmt: skip
    action_space = spaces.Dict({"drive": spaces.Box(-1, 1, (2,), np.float32), "gear": spaces.Discrete(3)})

    def __init__(self, pays: float = 0.0) -> None:
        self.pays = pays

    def _seen(self):
        board = np.full((18, 18), self.steps % 3, np.uint8)
        pose = np.array([self.steps, 0.5, self.steps / 99], np.float32)  # the first leaves its space
        return {"board": board, "inner": (1 + self.steps % 2, pose), "say": "go"}

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return self._seen(), {}

    def step(self, action):
        assert action in self.action_space
        self.steps += 1
        return self._seen(), self.pays * self.steps, self.steps == 12, False, {}


class Scales(gymnasium.Env):
    """Features of several sizes, in a game that has no end."""

    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(4, np.float32), {}

    def step(self, action):
        self.steps += 1
        seen = np.array([0.001, 0.2, 100.0, 0.0]) * self.steps
        return seen.astype(np.float32), 1.0, False, self.steps == 15, {}


class Lucky(Scales):
    """It heeds no seed."""

    luck = itertools.count()

    def step(self, action):
        seen, *rest = super().step(action)
        return seen + next(self.luck) * (self.steps > 2), *rest


@pytest.fixture(autouse=True)
def odd(monkeypatch):
    monkeypatch.setattr(
        timing, "measure", lambda config, compute, **_: timing.Speed(config, compute, [], ["dream: much"])
    )
    kinds = {"Odd-v0": Odd, "Scales-v0": Scales, "Lucky-v0": Lucky}
    for id, kind in kinds.items():
        gymnasium.register(id, entry_point=kind, disable_env_checker=True)
    yield
    for id in kinds:
        del gymnasium.registry[id]


def checked(steps=30, **fields):
    return check(replace(CPU, env=replace(CPU.env, id="Odd-v0", **fields)), steps, 0)


def test_a_step_in_tokens():
    assert checked().rows == [
        TokenGroup("board", "map", 512, 324),
        TokenGroup("inner.0", "categorical", 4, 1),
        TokenGroup("inner.1", "vector", 125, 3),
        TokenGroup("drive", "choice", 51, 2),
        TokenGroup("gear", "choice", 3, 1),
    ]


def test_what_looks_wrong_is_said():
    found = checked()
    assert (len(found.rewards), found.games) == (30, 2)
    assert [line.split(":")[0] for line in found.suspicious] == [
        "inner.1 lay outside its space",
        "inner.1 never changed in 1",
        "no reward in 30 random steps",
        "a step has 331 tokens, which is slow",
    ]


def test_features_that_hardly_move_or_are_too_far_away_are_named():
    config = replace(preset("control"), env=replace(CPU.env, id="Scales-v0"))
    found = check(config, 40, 0)
    assert [line.split(",")[0] for line in found.suspicious] == [
        "observation never changed in 3",
        "observation moves too little in 0",
        "observation lies beyond ±402 in 2",
    ]
    assert (found.games, found.cut_off) == (2, 2)
    found = check(config, 14, 0)
    printed = io.StringIO()
    found.show(Console(file=printed), "Scales-v0")
    assert "0 games were over; one is cut off after 20,000 steps (--env.max-frames)" in printed.getvalue()


def test_an_environment_that_heeds_no_seed_is_found_out():
    found = check(replace(preset("control"), env=replace(CPU.env, id="Lucky-v0")), 20, 0)
    assert "its first game, played again from its seed, was another at step 3" in found.suspicious[-1]


def test_rewards_of_several_sizes_and_a_head_that_learns_their_sign():
    config = vary(replace(CPU, env=replace(CPU.env, id="Odd-v0", keys="inner.0", kwargs='{"pays": 0.5}')),
                  "world_model", reward_head="sign")  # fmt: skip
    assert check(config, 20, 0).suspicious[-1].endswith("their sign alone: --world-model.reward-head seen")
    assert not any(
        "rewards" in line for line in check(vary(config, "world_model", reward_head="symlog"), 20, 0).suspicious
    )


def test_rewards_of_which_hardly_two_are_alike():
    config = replace(preset("control"), env=replace(CPU.env, id="Pendulum-v1"))
    lines = [check(vary(config, "world_model", reward_head=head), 100, 0).suspicious[-1] for head in ("sign", "seen")]
    assert "their sign alone: --world-model.reward-head symlog" in lines[0]
    assert "the world model learns the first 63: --world-model.reward-head symlog" in lines[1]
    assert not check(config, 100, 0).suspicious


@pytest.mark.parametrize("id", ["Pong", "tokendream/Catch-v0", "CartPole-v1"])
def test_other_environments_have_nothing_suspicious_but_their_rewards(id):
    found = check(replace(CPU, env=replace(CPU.env, id=id)), 60, 0)
    assert all("reward" in line for line in found.suspicious)


def test_frames_are_compared_as_they_come_and_not_kept():
    config, steps = replace(CPU, env=replace(CPU.env, id="tokendream/Catch-v0")), 1000
    check(config, 1, 0)  # what is loaded and built once
    tracemalloc.start()
    try:
        check(config, steps, 0)
        assert tracemalloc.get_traced_memory()[1] < steps * 3 * 64**2 / 4
    finally:
        tracemalloc.stop()


def test_the_command_prints_slots_and_lines(capsys, monkeypatch):
    monkeypatch.setattr(timing, "measure", MEASURE)
    monkeypatch.setattr(timing, "GUESS", 0.1)
    assert main(["envs", "check", "Odd-v0", "--steps", "20", "--env.keys", "inner.0,inner.1"]) == 0
    printed = capsys.readouterr().out
    lines = [line.replace("│", " ").split() for line in printed.splitlines()]
    assert ["0", "inner.0", "categorical", "4", "1"] in lines
    assert ["1-3", "inner.1", "vector", "125", "3"] in lines
    assert ["4-5", "drive", "choice", "51", "2"] in lines
    assert "20 random steps: " in printed
    assert "suspicious: inner.1 lay outside its space: float32 (3,)" in printed
    time = r"\d+ (seconds|minutes|hours)"
    assert re.search(rf"training: about {time} on this machine, 100,000 steps with preset control", printed)


@pytest.mark.parametrize(("seconds", "text"), [
    (22_620, "6 hours"), (9240, "3 hours"), (7000, "120 minutes"), (50_000, "14 hours"), (0.3, "2 seconds"),
    (460_800, "130 hours"),
])  # fmt: skip
def test_a_time_from_few_samples_has_few_digits(seconds, text):
    assert roughly(float(seconds)) == text


@pytest.mark.parametrize(("takes", "times", "said"), [(1.0, 3, "3 hours"), (4.0, 2, "5 hours"), (30.0, 1, "9 hours")])
@pytest.mark.parametrize("load", [0.0, 99.0])
def test_the_median_of_some_repetitions_is_said_and_a_busy_machine(monkeypatch, capsys, takes, times, said, load):
    hours, now, asked = iter([9.0, 1.0, 3.0]), [0.0], []

    def measure(*_, **__):
        now[0] += takes
        asked.append(next(hours))
        return SimpleNamespace(hours=asked[-1])

    monkeypatch.setattr(timing, "measure", measure)
    monkeypatch.setattr(envs.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(env_check, "check", lambda *_: SimpleNamespace(
        show=lambda *_: None, spaces=None, steps_per_second=1e9))  # fmt: skip
    assert main(["envs", "check", "CartPole-v1"]) == 0
    printed = capsys.readouterr().out
    assert f"training: about {said} on this machine" in printed
    assert len(asked) == times
    assert ("this machine is busy" in printed) is (load > 0)


def test_what_does_not_fit_is_not_timed(monkeypatch, capsys):
    monkeypatch.setattr(
        timing, "measure", lambda config, compute, **_: timing.Speed(config, compute, [], ["dream: much"])
    )
    assert main(["envs", "check", "CartPole-v1", "--steps", "5"]) == 0
    assert "training: not timed (dream: much)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("id", "flags", "preset"),
    [
        ("CartPole-v1", [], "control"),
        ("Odd-v0", [], "grid"),
        ("tokendream/Catch-v0", [], "cpu"),
        ("CartPole-v1", ["--preset", "tiny"], "tiny"),
        ("nowhere:Nothing-v0", [], "cpu"),
    ],
)
def test_the_preset_is_that_which_training_would_choose(id, flags, preset):
    assert parse_envs(["check", id, *flags]).preset == preset


def test_where_there_is_a_gpu_an_image_is_that_of_rem(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    chosen = {id: parse_envs(["check", id]).preset for id in ("tokendream/Catch-v0", "CartPole-v1")}
    assert chosen == {"tokendream/Catch-v0": "rem", "CartPole-v1": "control"}


def test_sizes_follow_the_preset(capsys):
    for name, tokens in (("cpu", "36"), ("rem", "64")):
        assert main(["envs", "check", "tokendream/Catch-v0", "--steps", "5", "--preset", name]) == 0
        assert ["image", "512", tokens] == capsys.readouterr().out.split("0-")[1].replace("│", " ").split()[2:5]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["check"], "expected envs, envs FAMILY or envs check ID"),
        (["check", "Odd-v0", "more"], "expected envs, envs FAMILY or envs check ID"),
        (["check", "Odd-v0", "--env.id", "Pong"], "envs has no --env.id: it takes envs check ID"),
        (["CartPole-v1"], "'CartPole-v1' is no family but an environment: envs check CartPole-v1\n"),
        (["breakout"], "envs check breakout\n"),
        (["dmc:walker-walk"], "envs check dmc:walker-walk\n"),
        (["dnc:"], "unknown family 'dnc:'; nearest: dmc"),
        (["check", "Odd-v7"], "unknown environment 'Odd-v7'; nearest: Odd-v0"),
        (["check", "Odd-v0", "--steps", "0"], "--steps must be in 1..1000000, not 0"),
        (["check", "Odd-v0", "--env.keys", "inne.0"], "there is no part 'inne.0' (env.keys); nearest: inner.0"),
    ],
)
def test_bad_input_gets_one_line(argv, message, capsys):
    assert main(["envs", *argv]) == 2
    assert message in capsys.readouterr().err
