"""The whole agent learns: Catch, from pixels, only in its dreams; and not at all when the dreams lie about reward."""

import subprocess
import sys
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


def test_catch_is_solved_in_dreams() -> None:
    """By two seeds of the first three at least, whatever the processor; docs/evidence.md has more."""
    found = (seed for seed in "012" if learn(seed) >= 0.9 * BEST)
    assert next(found, None) is not None
    assert next(found, None) is not None


def test_dreams_that_lie_about_reward_teach_nothing() -> None:
    """The control: the same training, but each dream is paid with another dream's rewards."""
    assert learn("0", "shuffled-rewards") <= CHANCE + 1.0
