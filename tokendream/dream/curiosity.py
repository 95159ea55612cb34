"""What a dreamed step pays to an agent that is curious: the reward, and what M's ensemble disagrees about.

Source: Simulus (arXiv 2502.11537).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from tokendream.agent.agent import Agent
from tokendream.agent.world_model import Outcome, Prediction
from tokendream.config.parts import DreamConfig
from tokendream.dream.imagine import Reward


def payment(agent: Agent, settings: DreamConfig) -> Reward | None:
    """w_ext · reward + w_int · disagreement; None where that is the reward itself."""
    extrinsic, intrinsic = settings.reward_weight, settings.curiosity
    if intrinsic == 0 and extrinsic == 1:
        return None

    def paid(prediction: Prediction, outcome: Outcome) -> Float[Tensor, " B"]:
        reward = extrinsic * outcome.reward
        ensemble = agent.world_model.ensemble
        if intrinsic == 0:
            return reward
        assert ensemble is not None, "a config with curiosity has an ensemble"
        return reward + intrinsic * ensemble.disagreement(prediction.hidden[:, 0]).to(reward.dtype)

    return paid
