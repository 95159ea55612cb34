"""The whole agent learns: Catch, from pixels, only in its dreams; and not at all when the dreams lie about reward."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tokendream.device import Compute

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
    """By two seeds of three with AMX, in bf16 (all three are, there), and by one of three elsewhere, in float32.

    Why float32 does worse is not known: on an AMD EPYC seeds 0, 1 and 2 ended at -1.31, 4.97 and 3.78, where a random
    player has -1.26. Seed 0 had learned what pays by epoch 20; going on from there, the controller reached 3.71 with
    centred advantages and lost it again, and learned nothing with scaled ones. The seed known to learn comes first.
    """
    found = solved(iter("102"))
    for _ in range(2 if Compute.resolve("cpu").dtype == torch.bfloat16 else 1):
        assert next(found, None) is not None


def test_dreams_that_lie_about_reward_teach_nothing() -> None:
    """The control: the same training, but each dream is paid with another dream's rewards."""
    assert learn("0", "shuffled-rewards") <= CHANCE + 1.0
