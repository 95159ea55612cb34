"""Train an agent on Catch and print its mean score: `python learn_catch.py SEED [CONTROL]`.

A script rather than a function of the test, so that it runs without the checks of shapes and types at every call.
A control (see `tokendream/agent/ablated.py`) trains to the end; else training stops once the game looks solved.
"""

import dataclasses
import sys

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


def score(trainer: Trainer, games: int) -> float:
    policy = AgentPolicy(trainer.agent, trainer.compute, temperature=0.5, seed=trainer.epoch)
    result, _ = evaluate(trainer.config, policy, games, seed=trainer.config.seed, temperature=0.5)
    return result.mean


def main(seed: int, control: Control) -> float:
    """Mean score of 64 games after training, which stops early once 32 games look solved."""
    keep_freed_memory()
    torch.set_num_threads(1)
    config = dataclasses.replace(TOY, seed=seed, control=control)
    torch.manual_seed(seed)
    envs = make(config, 1, evaluation=False)
    agent = Agent.from_config(config, envs.spaces)
    replay = ReplayBuffer(config.collect.capacity, (3, config.env.size, config.env.size))
    trainer = Trainer(config, agent, envs, replay, compute_for(config, "cpu"))
    while not trainer.finished:
        trainer.run_epoch()
        trainer.close_epoch()
        if control == "none" and trainer.epoch > 20 and trainer.epoch % 5 == 0 and score(trainer, 32) >= 4.8:
            break
    envs.close()
    print("epochs", trainer.epoch - 1, "env steps", replay.total, file=sys.stderr)
    return score(trainer, 64)


if __name__ == "__main__":
    print(main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "none"))
