"""What a dream teaches: λ-returns and the actor-critic's loss. Pure functions of a rollout, and of where it begins.

Source: REM (arXiv 2402.05643), appendix on the controller; IRIS (arXiv 2209.00588), appendix B.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tokendream.agent.agent import Agent
from tokendream.config.parts import DreamConfig
from tokendream.data.batch import Steps
from tokendream.dream import imagine
from tokendream.dream.imagine import Rollout
from tokendream.nn.losses import Losses
from tokendream.nn.precision import raised
from tokendream.spaces.actions import ActionSpace

SMALLEST_SCALE = 0.05
"""Advantages are never divided by less, in reward units: where nothing is paid, their noise stays small."""


def lambda_returns(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    ends: Bool[Tensor, "B T"],
    *,
    discount: float,
    lam: float,
) -> Float[Tensor, "B T-1"]:
    """λ-returns of a rollout, the critic's regression target.

        G_t = r_t + γ (1 - d_t) [(1 - λ) v_{t+1} + λ G_{t+1}],    G_{T-1} = v_{T-1}

    `rewards[:, t]` and `ends[:, t]` are caused by the action taken at t; `values[:, t]` is v(s_t). The last step
    only bootstraps, hence T-1 returns, in reward units.

    Source: Sutton & Barto (2018), eq. 12.18. Raises ValueError when T < 2.
    """
    T = rewards.shape[1]
    if T < 2:
        raise ValueError(f"a return needs at least 2 steps, not {T}")
    going_on = discount * (~ends).to(values.dtype)
    G = values[:, -1]
    returns = []
    for t in reversed(range(T - 1)):
        G = rewards[:, t] + going_on[:, t] * ((1 - lam) * values[:, t + 1] + lam * G)
        returns.append(G)
    return torch.stack(returns[::-1], dim=1)


def dream_loss(
    agent: Agent, tokens: Int64[Tensor, "B L K"], steps: Steps, settings: DreamConfig, generator: torch.Generator | None
) -> Losses:
    """`actor_critic_loss` of dreams that begin where these real segments end."""
    dream = imagine.start(agent, tokens, steps, settings)
    rollout = imagine.imagine(dream, agent, settings.horizon, generator)
    return actor_critic_loss(rollout, agent.actor_critic.actions, settings)


def actor_critic_loss(rollout: Rollout, actions: ActionSpace, settings: DreamConfig) -> Losses:
    """Policy, value and entropy terms of a rollout, on its first T-1 steps.

        policy   -log π(a_t) (G_t - v_t),  advantage detached, not normalised
        value    (v_t - sg G_t)²
        entropy  -entropy_weight · H[π(· | s_t)]

    `mask_after_end` leaves out the steps that were dreamed after an end (the published code keeps them).
    `centre_advantage` subtracts the batch's mean advantage (not published): while the values still lag behind the
    returns, every action looks good or every one looks bad, and a young policy settles on whatever it tried first.
    `scale_advantage` divides it by its root mean square over the batch (not published), so that one entropy weight
    serves games that pay in every tenth step and games that pay in every thousandth.
    """
    values = raised(rollout.values)
    returns = lambda_returns(
        rollout.rewards, values.detach(), rollout.ends, discount=settings.discount, lam=settings.lam
    )
    values, policy = values[:, :-1], actions.policy(rollout.logits[:, :-1])
    chosen, entropy = policy.log_prob(rollout.actions[:, :-1]), policy.entropy()
    advantage = returns - values.detach()

    weight = torch.ones_like(returns)
    if settings.mask_after_end:
        ended = rollout.ends[:, :-2].cumsum(dim=1) > 0
        weight[:, 1:] = (~ended).to(weight.dtype)

    def mean(x: Tensor) -> Tensor:
        return (x * weight).sum() / weight.sum()

    if settings.centre_advantage:
        advantage = advantage - mean(advantage)
    size = mean(advantage.abs())
    if settings.scale_advantage:
        advantage = advantage / mean(advantage.square()).sqrt().clamp(min=SMALLEST_SCALE)

    return Losses(
        {
            "policy": -mean(chosen * advantage),
            "value": mean((values - returns).square()),
            "entropy": -settings.entropy_weight * mean(entropy),
        },
        {
            "policy_entropy": mean(entropy),
            "return": mean(returns),
            "advantage_scale": size,
            "reward_rate": rollout.rewards.ne(0).float().mean(),
            "end_rate": rollout.ends.float().mean(),
        },
    )
