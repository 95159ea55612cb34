"""The whole agent learns: Catch, from pixels, only in its dreams; and not at all when the dreams lie about reward."""

import dataclasses

import numpy as np
import pytest
import torch

from tokendream.agent import Agent, AgentPolicy
from tokendream.compute import Compute
from tokendream.data.replay import ReplayBuffer
from tokendream.envs.make import make
from tokendream.evaluate import evaluate
from tokendream.presets import TOY
from tokendream.trainer import Trainer

BEST = 5.0
CHANCE = -1.26  # a random player's mean; its standard deviation is 1.8


def score(trainer: Trainer, games: int) -> float:
    policy = AgentPolicy(trainer.agent, trainer.compute, temperature=0.5, seed=trainer.epoch)
    result, _ = evaluate(trainer.config, policy, games, seed=trainer.config.seed, temperature=0.5)
    return result.mean


def learn(seed: int, lie=None) -> float:
    """Mean score of 64 games after training, which stops early once 32 games look solved."""
    config = dataclasses.replace(TOY, seed=seed)
    torch.manual_seed(seed)
    envs = make(config, 1, evaluation=False)
    agent = Agent.from_config(config, envs.n_actions)
    if lie is not None:
        lie(agent.world_model)
    replay = ReplayBuffer(config.collect.capacity, (3, config.env.size, config.env.size))
    trainer = Trainer(config, agent, envs, replay, Compute.resolve("cpu"))
    while not trainer.finished:
        trainer.run_epoch()
        trainer.close_epoch()
        if lie is None and trainer.epoch > 20 and trainer.epoch % 5 == 0 and score(trainer, 32) >= 0.96 * BEST:
            break
    envs.close()
    return score(trainer, 64)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_catch_is_solved_in_dreams(seed):
    assert learn(seed) >= 0.9 * BEST


@pytest.mark.slow
def test_dreams_that_lie_about_reward_teach_nothing():
    """The control: dreamed rewards are dealt out to other dreams of the batch; all else is as it was."""

    def scramble(world_model):
        imagine, rng = world_model.imagine, np.random.default_rng(0)

        def lying(*args, **kwargs):
            outcome, state = imagine(*args, **kwargs)
            return outcome._replace(reward=outcome.reward[torch.from_numpy(rng.permutation(len(outcome.reward)))]), state

        world_model.imagine = lying

    assert learn(0, lie=scramble) <= CHANCE + 1.0
