"""Train an agent on Catch and print its mean score: `python learn_catch.py SEED [lie]`.

A script rather than a function of the test, so that it runs without the checks of shapes and types at every call.
With `lie`, dreamed rewards are dealt out to other dreams of the batch; all else is as it was.
"""

import dataclasses
import sys

import numpy as np
import torch

from tokendream.agent import Agent, AgentPolicy
from tokendream.compute import Compute, keep_freed_memory
from tokendream.data.replay import ReplayBuffer
from tokendream.envs.make import make
from tokendream.evaluate import evaluate
from tokendream.presets import TOY
from tokendream.trainer import Trainer


def score(trainer: Trainer, games: int) -> float:
    policy = AgentPolicy(trainer.agent, trainer.compute, temperature=0.5, seed=trainer.epoch)
    result, _ = evaluate(trainer.config, policy, games, seed=trainer.config.seed, temperature=0.5)
    return result.mean


def lie_about_reward(world_model) -> None:
    imagine, rng = world_model.imagine, np.random.default_rng(0)

    def lying(*args, **kwargs):
        outcome, state = imagine(*args, **kwargs)
        return outcome._replace(reward=outcome.reward[torch.from_numpy(rng.permutation(len(outcome.reward)))]), state

    world_model.imagine = lying


def main(seed: int, lie: bool) -> float:
    """Mean score of 64 games after training, which stops early once 32 games look solved."""
    keep_freed_memory()
    torch.set_num_threads(1)
    config = dataclasses.replace(TOY, seed=seed)
    torch.manual_seed(seed)
    envs = make(config, 1, evaluation=False)
    agent = Agent.from_config(config, envs.n_actions)
    if lie:
        lie_about_reward(agent.world_model)
    replay = ReplayBuffer(config.collect.capacity, (3, config.env.size, config.env.size))
    trainer = Trainer(config, agent, envs, replay, Compute.resolve("cpu"))
    while not trainer.finished:
        trainer.run_epoch()
        trainer.close_epoch()
        if not lie and trainer.epoch > 20 and trainer.epoch % 5 == 0 and score(trainer, 32) >= 4.8:
            break
    envs.close()
    print("epochs", trainer.epoch - 1, "env steps", replay.total, file=sys.stderr)
    return score(trainer, 64)


if __name__ == "__main__":
    print(main(int(sys.argv[1]), "lie" in sys.argv[2:]))
