"""Train an agent on Catch: `python learn_catch.py SEED [CONTROL ...]` prints mean scores as JSON, by what was cut.

With `--whole` as last word it goes on to the end of the preset, however good it is before.

A script rather than a function of the test, so that it runs without the checks of shapes and types at every call.
V and M are trained once. From there C learns in their dreams until the game looks solved, and under each control of
dreams (see `tokendream/agent/ablated.py`) for as many epochs.
"""

import copy
import dataclasses
import json
import sys
from collections.abc import Callable

import torch

from tokendream.agent.agent import Agent, AgentPolicy
from tokendream.config.parts import Control
from tokendream.config.presets import TOY
from tokendream.data.replay import ReplayBuffer
from tokendream.device import keep_freed_memory
from tokendream.envs.registry import make
from tokendream.evaluation.evaluation import evaluate
from tokendream.kernels.machine import compute_for
from tokendream.training.trainer import Trainer

C_BEGINS = TOY.training.actor_critic.first_epoch


def trainer_of(seed: int, control: Control) -> Trainer:
    config = dataclasses.replace(TOY, seed=seed, control=control)
    torch.manual_seed(seed)
    envs = make(config, 1, evaluation=False)
    agent = Agent.from_config(config, envs.spaces)
    replay = ReplayBuffer.of(envs.spaces, config.collect.capacity)
    return Trainer(config, agent, envs, replay, compute_for(config, "cpu"))


def train(trainer: Trainer, until: Callable[[Trainer], bool]) -> None:
    while not trainer.finished and not until(trainer):
        trainer.run_epoch()
        trainer.close_epoch()


def score(trainer: Trainer, games: int) -> float:
    policy = AgentPolicy(trainer.agent, trainer.compute, temperature=0.5, seed=trainer.epoch)
    result, _ = evaluate(trainer.config, policy, games, seed=trainer.config.seed, temperature=0.5)
    return result.mean


def solved(trainer: Trainer) -> bool:
    """4.8 of 5 over 32 games, from C's second epoch on."""
    return trainer.epoch > C_BEGINS + 1 and score(trainer, 32) >= 4.8


def main(seed: int, controls: list[Control], whole: bool) -> dict[str, float]:
    """Mean scores of 64 games."""
    keep_freed_memory()
    torch.set_num_threads(1)
    trainer = trainer_of(seed, "none")
    train(trainer, lambda trainer: trainer.epoch == C_BEGINS)
    snapshot, rows = copy.deepcopy(trainer.snapshot()), trainer.replay.export(0, trainer.replay.total)
    train(trainer, lambda trainer: not whole and solved(trainer))
    scores, end = {"none": score(trainer, 64)}, trainer.epoch
    print("epochs", trainer.epoch - 1, "env steps", trainer.replay.total, file=sys.stderr)
    for control in controls:
        other = trainer_of(seed, control)
        other.replay.restore(rows, 0)
        other.restore(snapshot)
        train(other, lambda trainer: trainer.epoch == end)
        scores[control] = score(other, 64)
    return scores


if __name__ == "__main__":
    controls = [word for word in sys.argv[2:] if word != "--whole"]
    print(json.dumps(main(int(sys.argv[1]), controls, whole="--whole" in sys.argv)))
