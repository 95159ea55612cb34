"""The whole agent learns: Catch, from pixels, only in its dreams; and not at all when the dreams lie about reward."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BEST = 5.0
CHANCE = -1.26  # a random player's mean; its standard deviation is 1.8

pytestmark = pytest.mark.slow


def learn(*args: str) -> float:
    script = Path(__file__).with_name("learn_catch.py")
    run = subprocess.run([sys.executable, str(script), *args], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return float(run.stdout)


def solved(seeds: Iterator[str]) -> Iterator[str]:
    return (seed for seed in seeds if learn(seed) >= 0.9 * BEST)


def test_catch_is_solved_in_dreams() -> None:
    """By two seeds of three, on any processor: other rounding is another path through training, as another seed is.

    On processors with AMX all three are; with AVX2 alone seed 0 ended at 3.59. The third seed is only asked where
    one of the first two failed.
    """
    found = solved(iter("012"))
    assert next(found, None) is not None
    assert next(found, None) is not None


def test_dreams_that_lie_about_reward_teach_nothing() -> None:
    """The control: the same training, but each dream is paid with another dream's rewards."""
    assert learn("0", "shuffled-rewards") <= CHANCE + 1.0
