"""Controls: one link of the agent cut on purpose, all else as it was, to see that nothing is learnt without it.

A learning curve proves little unless the same training with a broken part stays at chance. A sixth control, a world
model that stays random, needs nothing from here: `--training.world-model.updates 0`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from tokendream.agent.actor_critic import ActorCritic
from tokendream.agent.world_model import Outcome, Prediction, WorldModel
from tokendream.config.parts import Control
from tokendream.data.batch import Steps
from tokendream.nn.losses import Losses


def apply(control: Control, world_model: WorldModel, actor_critic: ActorCritic) -> None:
    """Cut the link that `control` names, in place. Random numbers are torch's global ones, hence resumable."""
    if control == "shuffled-actions":
        _shuffle_actions(world_model)
    elif control in ("zero-rewards", "dealt-rewards"):
        _change_rewards(world_model, dealt=control == "dealt-rewards")
    elif control == "blind-policy":
        _blind(actor_critic)


def _shuffle_actions(world_model: WorldModel) -> None:
    """M is trained on actions that were taken elsewhere in the batch: it can not know what an action does."""
    loss = world_model.loss

    def on_other_actions(codes: torch.Tensor, tokens: torch.Tensor, steps: Steps) -> Losses:
        action = steps.action.flatten()
        action = action[torch.randperm(len(action), device=action.device)].view_as(steps.action)
        return loss(codes, tokens, dataclasses.replace(steps, action=action))

    world_model.loss = on_other_actions  # type: ignore[method-assign]


def _change_rewards(world_model: WorldModel, *, dealt: bool) -> None:
    """Dreams pay nothing, or each is paid with the rewards of another one of its batch."""
    imagine = world_model.imagine

    def paying_otherwise(*args: Any, **kwargs: Any) -> tuple[Outcome, Prediction, Any]:
        outcome, prediction, state = imagine(*args, **kwargs)
        reward = outcome.reward
        reward = reward[torch.randperm(len(reward), device=reward.device)] if dealt else torch.zeros_like(reward)
        return outcome._replace(reward=reward), prediction, state

    world_model.imagine = paying_otherwise  # type: ignore[method-assign]


def _blind(actor_critic: ActorCritic) -> None:
    """C sees the same empty frame always, in dreams and in games; it still hears its own actions."""
    features = actor_critic.features
    actor_critic.features = lambda view: features(torch.zeros_like(view))  # type: ignore[method-assign]
