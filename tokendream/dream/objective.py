"""What a dream teaches: λ-returns and the actor-critic's loss, functions of a rollout and of where it begins.

Where a `ReturnScale` is given, it takes in the returns that are found.

Source: REM (arXiv 2402.05643), appendix on the controller; IRIS (arXiv 2209.00588), appendix B.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tokendream.agent.actor_critic import PolicyState
from tokendream.agent.agent import Agent
from tokendream.config.parts import DreamConfig
from tokendream.data.batch import Steps
from tokendream.dream import imagine
from tokendream.dream.imagine import Rollout
from tokendream.dream.return_scale import ReturnScale
from tokendream.dream.reward import reward_function
from tokendream.nn.hl_gauss import HLGauss, value_error
from tokendream.nn.losses import Losses
from tokendream.nn.precision import raised
from tokendream.ranks import averaged
from tokendream.spaces.actions import ActionSpace

SMALLEST_SCALE = 0.05
"""Advantages are never divided by less, in reward units: where nothing is paid, their noise stays small."""

CLIP = 0.2
"""How far the probability of an action may move on one batch of dreams, as a share, before it gains nothing more."""


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
    only bootstraps, so there are T-1 returns, in reward units.

    Source: Sutton & Barto (2018), eq. 12.18.
    """
    T = rewards.shape[1]
    assert T >= 2, f"a return needs at least 2 steps, not {T}"
    going_on = discount * (~ends).to(values.dtype)
    G = values[:, -1]
    returns = []
    for t in reversed(range(T - 1)):
        G = rewards[:, t] + going_on[:, t] * ((1 - lam) * values[:, t + 1] + lam * G)
        returns.append(G)
    return torch.stack(returns[::-1], dim=1)


def dream_from(
    agent: Agent, tokens: Int64[Tensor, "B L K"], steps: Steps, settings: DreamConfig, generator: torch.Generator | None
) -> tuple[PolicyState, Rollout]:
    """C's memory before the first frame of dreams that begin where these real segments end, and the dreams."""
    start = imagine.start(agent, tokens, steps, settings)
    if settings.group > 1:
        start = start.expand(settings.group, alike=True)
    paid = reward_function(agent, settings)
    return start.policy, imagine.imagine(start, agent, settings.horizon, generator, reward=paid, bootstrap=True)


def dream_loss(
    agent: Agent,
    tokens: Int64[Tensor, "B L K"],
    steps: Steps,
    settings: DreamConfig,
    generator: torch.Generator | None,
    scale: ReturnScale | None = None,
) -> Losses:
    """`actor_critic_loss` of dreams that begin where these real segments end."""
    _, rollout = dream_from(agent, tokens, steps, settings, generator)
    return actor_critic_loss(rollout, agent.actor_critic.actions, settings, agent.actor_critic.bins, scale)


def actor_critic_loss(
    rollout: Rollout,
    actions: ActionSpace,
    settings: DreamConfig,
    bins: HLGauss | None = None,
    scale: ReturnScale | None = None,
) -> Losses:
    """Policy, value and entropy terms of a rollout, on its first T-1 steps.

    policy   -log π(a_t) A_t,  the advantage of `targets`, detached
    value    (v_t - sg G_t)², or the cross-entropy of the critic's `bins` at sg G_t
    entropy  -entropy_weight · H[π(· | s_t)]
    """
    found, figures = targets(rollout, settings, scale)
    policy = actions.policy(rollout.logits[:, :-1])
    chosen = policy.log_prob(rollout.actions[:, :-1])
    values = value_error(raised(rollout.critic[:, :-1]), found.returns, bins)
    return _losses(-chosen * found.advantage, values, policy.entropy(), found, settings, figures)


class Targets(NamedTuple):
    """What a rollout says about its first N = T-1 steps; no gradient."""

    returns: Float[Tensor, "B N"]
    """λ-returns."""
    advantage: Float[Tensor, "B N"]
    """G_t - v_t, centred and scaled as the settings ask."""
    weight: Float[Tensor, "B N"]
    """1 for the steps that count, else 0."""

    def mean(self, x: Float[Tensor, "B N"]) -> Float[Tensor, ""]:
        """Over the steps that count."""
        return (x * self.weight).sum() / averaged(self.weight.sum())


def targets(
    rollout: Rollout, settings: DreamConfig, scale: ReturnScale | None = None
) -> tuple[Targets, dict[str, Tensor]]:
    """Returns and advantages of a rollout, and figures about it for the log.

    `mask_after_end` leaves out the steps that were dreamed after an end (the published code keeps them).
    In a `group` of dreams from one start each advantage has the mean of the others' at the same step subtracted: what
    the start and chance did to all of them, which no action of this one decides (leave-one-out; not published).
    `centre_advantage` subtracts the batch's mean advantage (not published): while the values still lag behind the
    returns, every action looks good or every one looks bad, and a young policy settles on whatever it tried first.
    `scale_advantage` divides it by its root mean square over the batch (not published), so that one entropy weight
    serves games that pay in every tenth step and games that pay in every thousandth. `scale` divides it by what the
    returns of many updates say, and never raises it.
    """
    values = raised(rollout.values).detach()
    returns = lambda_returns(rollout.rewards, values, rollout.ends, discount=settings.discount, lam=settings.lam)
    weight = torch.ones_like(returns)
    if settings.mask_after_end:
        ended = rollout.ends[:, :-2].cumsum(dim=1) > 0
        weight[:, 1:] = (~ended).to(weight.dtype)
    found = Targets(returns, returns - values[:, :-1], weight)
    if settings.group > 1:
        found = found._replace(advantage=found.advantage - _of_the_others(found, settings.group))
    if settings.centre_advantage:
        found = found._replace(advantage=found.advantage - averaged(found.mean(found.advantage)))
    size = found.mean(found.advantage.abs())
    if settings.scale_advantage:
        rms = averaged(found.mean(found.advantage.square())).sqrt().clamp(min=SMALLEST_SCALE)
        found = found._replace(advantage=found.advantage / rms)
    if scale is not None:
        found = found._replace(advantage=found.advantage / scale(returns, weight))
    figures = {
        "return": found.mean(returns),
        "advantage_scale": size,
        "reward_rate": rollout.rewards[:, :-1].abs().mean(),
        "end_rate": rollout.ends[:, :-1].float().mean(),
    }
    return found, figures


def _of_the_others(found: Targets, group: int) -> Float[Tensor, "B N"]:
    """The mean advantage of a group's other dreams at each step, of those for which the step counts; 0 if of none."""
    weight = found.weight.unflatten(0, (-1, group))
    advantage = found.advantage.unflatten(0, (-1, group)) * weight
    others = advantage.sum(1, keepdim=True) - advantage
    count = weight.sum(1, keepdim=True) - weight
    return (others / count.clamp(min=1)).flatten(0, 1)


class Experience(NamedTuple):
    """N dreamed steps to learn from more than once, and how the policy that dreamed them acted; no gradient."""

    tokens: Int64[Tensor, "B N K"]
    actions: Int64[Tensor, "B N"]
    memory: PolicyState
    """Of C, before the first frame."""
    log_prob: Float[Tensor, "B N"]
    targets: Targets
    figures: dict[str, Tensor]

    def dreams(self, which: Int64[Tensor, " n"]) -> Experience:
        """Some of the dreams; the figures stay those of all."""
        memory, found = self.memory.take(which), Targets(*(x[which] for x in self.targets))
        return Experience(self.tokens[which], self.actions[which], memory, self.log_prob[which], found, self.figures)

    @classmethod
    def of(
        cls,
        rollout: Rollout,
        memory: PolicyState,
        actions: ActionSpace,
        settings: DreamConfig,
        scale: ReturnScale | None = None,
    ) -> Experience:
        """What a rollout that began with this memory is to learn from."""
        chosen = rollout.actions[:, :-1]
        log_prob = actions.policy(rollout.logits[:, :-1]).log_prob(chosen)
        return cls(rollout.tokens[:, :-1], chosen, memory, log_prob, *targets(rollout, settings, scale))


@torch.no_grad()
def dreamed(
    agent: Agent,
    tokens: Int64[Tensor, "B L K"],
    steps: Steps,
    settings: DreamConfig,
    generator: torch.Generator | None,
    scale: ReturnScale | None = None,
) -> Experience:
    """Dreams that begin where these real segments end."""
    memory, rollout = dream_from(agent, tokens, steps, settings, generator)
    return Experience.of(rollout, memory, agent.actor_critic.actions, settings, scale)


def minibatches(experience: Experience, settings: DreamConfig, rng: np.random.Generator) -> Iterator[Experience]:
    """What each gradient update learns from, in turn: all dreams, or a random share of them, `reuse` times over.

    Raises RuntimeError where the dreams cannot be shared out evenly.
    """
    for _ in range(settings.reuse):
        if settings.minibatches == 1:
            yield experience
            continue
        order = torch.from_numpy(rng.permutation(len(experience.tokens))).to(experience.tokens.device)
        for which in order.view(settings.minibatches, -1):
            yield experience.dreams(which)


def clipped_loss(agent: Agent, experience: Experience, settings: DreamConfig) -> Losses:
    """The objective of PPO for a policy π that may have moved away from the one that dreamed, π':

        policy   -min(ρ A_t, clip(ρ, 1 - CLIP, 1 + CLIP) A_t),    ρ = π(a_t) / π'(a_t)

    Value and entropy as in `actor_critic_loss`, whose gradient this has where π = π'. What C remembered before the
    first frame stays as it was. Source: PPO (arXiv 1707.06347), eq. 7.
    """
    seen, found = experience.tokens, experience.targets
    view = agent.view(seen, agent.tokenizer.codes(seen))
    output = agent.actor_critic.along(view, experience.actions, experience.memory)
    policy = agent.actor_critic.actions.policy(output.logits)
    ratio = (policy.log_prob(experience.actions) - experience.log_prob).exp()
    gain = ratio * found.advantage
    clipped = ratio.clamp(1 - CLIP, 1 + CLIP) * found.advantage
    moved = {"clipped": found.mean((clipped < gain).float())}
    values = value_error(output.critic, found.returns, agent.actor_critic.bins)
    return _losses(-torch.minimum(gain, clipped), values, policy.entropy(), found, settings, experience.figures | moved)


def _losses(
    policy: Float[Tensor, "B N"],
    values: Float[Tensor, "B N"],
    entropy: Float[Tensor, "B N"],
    found: Targets,
    settings: DreamConfig,
    figures: dict[str, Tensor],
) -> Losses:
    """The three terms, each a mean over the steps that count."""
    terms, mean = {"policy": found.mean(policy), "value": found.mean(values)}, found.mean(entropy)
    return Losses(terms | {"entropy": -settings.entropy_weight * mean}, {"policy_entropy": mean, **figures})
