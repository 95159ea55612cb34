"""What a dreamed step pays: the reward that was drawn or is expected, and what M's ensemble disagrees about.

Of several reward heads it is what all of them agree on. Source of the ensemble: Simulus (arXiv 2502.11537).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from tokendream.agent.agent import Agent
from tokendream.agent.world_model import Outcome, Prediction
from tokendream.config.parts import DreamConfig
from tokendream.dream.imagine import Reward


def reward_function(agent: Agent, settings: DreamConfig) -> Reward:
    """w_ext · reward + w_int · disagreement, the reward in the units of M's head."""
    extrinsic, intrinsic, M = settings.reward_weight, settings.curiosity, agent.world_model

    def paid(prediction: Prediction, outcome: Outcome) -> Float[Tensor, " B"]:
        reward = M.rewards.number(prediction.reward[:, 0]) if settings.expected_reward else outcome.reward
        if M.other_rewards is not None:
            reward = M.other_rewards.agreed(prediction.read[:, 0], reward, M.rewards)
        reward = extrinsic * reward / M.rewards.unit
        ensemble = M.ensemble
        if intrinsic == 0:
            return reward
        assert ensemble is not None, "a config with curiosity has an ensemble"
        return reward + intrinsic * ensemble.disagreement(prediction.hidden[:, 0]).to(reward.dtype)

    return paid
