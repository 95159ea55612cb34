"""Controls: one link of the agent cut on purpose, all else as it was, to see that nothing is learnt without it.

A learning curve proves little unless the same training with a broken part stays at the random player's. Two
controls need nothing from here: a blind policy sees empty frames (`Agent.view`), and a world model stays random with
`--training.world-model.updates 0`. Random numbers are torch's global ones, which a checkpoint holds.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from tokendream.agent.world_model import Outcome, Prediction, WorldModel
from tokendream.config.parts import Control
from tokendream.data.batch import Steps
from tokendream.nn.losses import Losses


class ShuffledActions(WorldModel):
    """Trained on actions that were taken elsewhere in the batch: it cannot know what an action does."""

    def loss(
        self,
        codes: Float[Tensor, "B T K E"],
        tokens: Int64[Tensor, "B T K"],
        steps: Steps,
        changed: Bool[Tensor, "B N K"] | None = None,
    ) -> Losses:
        action = steps.action.flatten()
        action = action[torch.randperm(len(action), device=action.device)].view_as(steps.action)
        return super().loss(codes, tokens, steps._replace(action=action), changed)


class ZeroRewards(WorldModel):
    """Its dreams pay nothing."""

    def imagine(self, *args: Any, **kwargs: Any) -> tuple[Outcome, Prediction, Any]:
        outcome, prediction, state = super().imagine(*args, **kwargs)
        nothing = self.rewards.target(torch.zeros_like(outcome.reward))
        if not nothing.is_floating_point():
            nothing = F.one_hot(nothing, self.rewards.outputs).to(prediction.reward.dtype)
        nothing = nothing.log().view_as(prediction.reward)
        return outcome._replace(reward=torch.zeros_like(outcome.reward)), prediction._replace(reward=nothing), state


class ShuffledRewards(WorldModel):
    """Each dream is paid with the rewards of another one of its batch."""

    def imagine(self, *args: Any, **kwargs: Any) -> tuple[Outcome, Prediction, Any]:
        outcome, prediction, state = super().imagine(*args, **kwargs)
        order = torch.randperm(len(outcome.reward), device=outcome.reward.device)
        shuffled = prediction._replace(reward=prediction.reward[order], read=prediction.read[order])  # by every head
        return outcome._replace(reward=outcome.reward[order]), shuffled, state


WORLD_MODELS: dict[Control, type[WorldModel]] = {
    "shuffled-actions": ShuffledActions,
    "zero-rewards": ZeroRewards,
    "shuffled-rewards": ShuffledRewards,
}
"""The world models with a link cut, by the control that asks for them; the whole one for any other."""
