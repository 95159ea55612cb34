"""Evaluations: statistics by hand, the protocol that they name, and the file that keeps them."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tokendream.config.config import vary
from tokendream.config.presets import REM, TINY
from tokendream.evaluation.evaluation import Evaluation, EvaluationError, evaluate, summarise
from tokendream.evaluation.games import Game, random_player
from tokendream.spaces.actions import Discrete


def evaluation(scores: Sequence[float] = (3.0, 1.0, 4.0, 1.0), env: str = "Breakout") -> Evaluation:
    n = len(scores)
    return Evaluation(env, {"temperature": 0.5, "policy": "agent"}, tuple(scores), (10,) * n, tuple(range(n)))


def test_statistics_by_hand() -> None:
    got = evaluation()
    assert (got.mean, got.median) == (2.25, 2.0)
    assert got.standard_error == pytest.approx(1.5 / 2)
    low, high = got.interval
    assert 1 <= low < 2.25 < high <= 4
    assert got.interval == got.interval
    assert got.human_normalised == pytest.approx((2.25 - 1.7) / 28.8)
    assert got.best == 2
    assert got.middle == 3  # sorted by score: games 1, 3, 0, 2
    assert evaluation([5.0]).standard_error is None
    assert evaluation([5.0]).middle == 0
    assert evaluation(env="tokendream/Catch-v0").human_normalised is None


def test_summarise_names_game_and_protocol() -> None:
    games = [Game(3, 1.0, np.zeros(4, np.uint8)), Game(8, 2.0, np.zeros(5, np.uint8))]
    got = summarise(vary(REM, "env", id="ms_pacman"), games, seed=9, temperature=0.5, epoch=50)
    assert got.env == "MsPacman"
    assert (got.scores, got.lengths, got.seeds) == ((1.0, 2.0), (4, 5), (3, 8))
    assert got.protocol["max_frames"] == 108_000
    assert got.protocol["noop_max"] == 1
    assert got.protocol["sticky_actions"] == 0
    assert (got.protocol["epoch"], got.protocol["seed"], got.protocol["temperature"]) == (50, 9, 0.5)
    assert "noop_max" not in summarise(TINY, games, seed=0, temperature=None, policy="random").protocol


def test_json_there_and_back() -> None:
    got = evaluation([0.5, -2.0])
    assert Evaluation.from_json(got.to_json()) == got
    summary = json.loads(got.to_json())["summary"]
    assert summary["mean"] == got.mean
    assert summary["interval_95"] == list(got.interval)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format 2; this tokendream reads format 1"),
        ({"scores": None}, "scores is missing"),
        ({"scores": "many"}, "scores must be a list of numbers, not 'many'"),
        ({"scores": [1.0, True]}, "scores must be a list of numbers"),
        ({"scores": []}, "at least one, not 0, 4 and 4"),
        ({"scores": [1, 2]}, "as many scores as lengths"),
        ({"scores": [1, 2, 3, float("nan")]}, "finite"),
        ({"seeds": [1, 2, 3, -4]}, "seeds must be"),
        ({"lengths": [1.5, 2, 3, 4]}, "lengths must be"),
        ({"env": 3}, "env must be a string, not 3"),
        ({"protocol": {"a": [1]}}, "protocol must be"),
    ],
)
def test_json_refuses(change: dict[str, object], said: str) -> None:
    data = {k: v for k, v in (json.loads(evaluation().to_json()) | change).items() if v is not None}
    with pytest.raises(EvaluationError, match=said):
        Evaluation.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 100_000])
def test_json_refuses_other_text(text: str) -> None:
    with pytest.raises(EvaluationError, match=r"^evaluation"):
        Evaluation.from_json(text)


def test_evaluate_a_random_player() -> None:
    def run(together: int) -> tuple[Evaluation, list[Game]]:
        policy = random_player(Discrete(3).random, np.random.default_rng(0))
        return evaluate(TINY, policy, 30, 1, together=together, policy_name="random")

    got, games = run(8)
    assert got == run(8)[0]
    assert got.scores == tuple(game.score for game in games)
    assert -5 <= got.mean < 1
    assert (got.env, got.protocol["policy_name"], got.protocol["temperature"]) == (TINY.env.id, "random", None)


def test_describe_is_one_line() -> None:
    assert evaluation().describe() == (
        "Breakout: mean 2.25 ± 0.75 (standard error), 95% interval 1.00 to 3.50, median 2.00, best 4.00 over 4 games, "
        "human-normalised 0.019"
    )
    assert "\n" not in evaluation([1.0], env="x").describe()


def test_write(tmp_path: Path) -> None:
    path = tmp_path / "evaluation" / "a.json"
    evaluation().write(path)
    evaluation([1.0]).write(path)
    assert Evaluation.from_json(path.read_text()) == evaluation([1.0])
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]
