"""Imagination: the only place where tokenizer, world model and controller meet.

A dream starts from a real moment, and each of its steps is one call of each part:

    frame z_t -> codes -> C -> a_t -> M.imagine (one POP call) -> reward, end, z_{t+1}

The same `step` dreams for training, for films and for play. Source: REM (arXiv 2402.05643), section 3.3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tokendream.agent.actor_critic import PolicyOutput, PolicyState
from tokendream.agent.agent import Agent
from tokendream.agent.world_model import Outcome, Prediction
from tokendream.config.parts import DreamConfig
from tokendream.data.batch import Steps
from tokendream.nn.backbone import State


@dataclass(frozen=True)
class Dream:
    """A moment of a batch of dreams: the frame before the agent's eyes, and both memories."""

    tokens: Int64[Tensor, "B K"]
    world: State
    policy: PolicyState
    begun: bool = False
    """Whether this frame was dreamed: what follows may then copy tokens of it, where M has a `correspondence`."""
    alike: int = 1
    """So many neighbours are dreamed on by the same random numbers, but for those of their actions."""

    def expand(self, n: int, *, alike: bool = False) -> Dream:
        """n times each moment, to be dreamed on in n ways; `alike`: chance falls alike in all of them."""
        rows = torch.arange(len(self.tokens), device=self.tokens.device).repeat_interleave(n)
        return dataclasses.replace(self.take(rows), alike=n if alike else 1)

    def take(self, rows: Int64[Tensor, " n"]) -> Dream:
        """Some dreams of the batch."""
        return Dream(self.tokens[rows], self.world.take(rows), self.policy.take(rows), self.begun)


Reward = Callable[[Prediction, Outcome], Float[Tensor, " B"]]
"""What a dreamed step pays, by what was predicted there and what was drawn from it."""


class Step(NamedTuple):
    """What one dreamed step brought; logits, value and critic carry the controller's gradient."""

    logits: Float[Tensor, "B A"]
    value: Float[Tensor, " B"]
    action: Int64[Tensor, " B"]
    outcome: Outcome
    prediction: Prediction
    critic: Float[Tensor, "B N"]


@dataclass(frozen=True)
class Rollout:
    """A whole dream of T steps. `tokens[:, t]` is what the agent saw when it took `actions[:, t]`."""

    tokens: Int64[Tensor, "B T K"]
    logits: Float[Tensor, "B T A"]
    values: Float[Tensor, "B T"]
    actions: Int64[Tensor, "B T"]
    rewards: Float[Tensor, "B T"]
    ends: Bool[Tensor, "B T"]
    critic: Float[Tensor, "B T N"]
    """What the critic gave, of which `values` are made."""


@torch.no_grad()
def start(agent: Agent, tokens: Int64[Tensor, "B L K"], steps: Steps, settings: DreamConfig) -> Dream:
    """The moment before the last frame of each real segment (left-padded), with both memories warm.

    The L-1 frames before it warm the LSTM; M absorbs the last `context_blocks` of them, so that its first prediction
    rests on these and the start's own block. Where that is padding, M starts empty.
    """
    codes = agent.tokenizer.codes(tokens)
    view = agent.view(tokens[:, :-1], codes[:, :-1])
    policy = agent.actor_critic.burn_in(view, steps.action[:, :-1], steps.mask[:, :-1], settings)
    M = agent.world_model
    world, last = M.initial_state(len(tokens)), tokens.shape[1] - 1
    for t in range(max(0, last - settings.context_blocks), last):
        block = slice(t, t + 1)
        _, world = M(codes[:, block], tokens[:, block], steps.action[:, block], world, slice(0, 0))
        world = world.keep(steps.mask[:, t])
    return Dream(tokens[:, -1], world, policy)


def _look(dream: Dream, agent: Agent) -> tuple[Float[Tensor, "B K E"], PolicyOutput, PolicyState]:
    """The codes of the frame before C's eyes, what C makes of it, and C's memory after it."""
    codes = agent.tokenizer.codes(dream.tokens)
    return codes, *agent.actor_critic(agent.view(dream.tokens, codes), dream.policy)


def step(
    dream: Dream,
    agent: Agent,
    generator: torch.Generator | None = None,
    *,
    action: Int64[Tensor, " B"] | None = None,
    temperature: float = 1.0,
) -> tuple[Dream, Step]:
    """Dream one step: the controller acts (or `action` is given), the world answers.

    The gradient reaches C alone: through its logits, its value and its memory, not through M or V.
    """
    V, M = agent.tokenizer, agent.world_model
    codes, output, policy = _look(dream, agent)
    if action is None:
        action = agent.actor_critic.actions.sample(output.logits, generator, temperature=temperature)
    policy = agent.actor_critic.absorb_action(action, policy)
    outcome, prediction, world = M.imagine(
        codes, dream.tokens, action, dream.world, generator, embed=V.codes, alike=dream.alike
    )
    if M.correspondence is not None and dream.begun:
        logits, temperature = prediction.next_frame[:, 0], M.config.token_temperature
        frame = M.correspondence(logits, dream.tokens, outcome.tokens, temperature=temperature)
        outcome = outcome._replace(tokens=frame)
    one = Step(output.logits, output.value, action, outcome, prediction, output.critic)
    return Dream(outcome.tokens, world, policy, begun=True, alike=dream.alike), one


def imagine(
    dream: Dream,
    agent: Agent,
    horizon: int,
    generator: torch.Generator | None = None,
    *,
    actions: Int64[Tensor, "B T"] | None = None,
    temperature: float = 1.0,
    reward: Reward | None = None,
    bootstrap: bool = False,
) -> Rollout:
    """Dream `horizon` steps, under the agent's own actions, sampled at `temperature`, or under recorded ones.

    `reward` pays each step instead of the reward that M predicts. With `bootstrap` the last step is C's look at its
    frame alone, whose value ends the returns: nobody reads what would follow, so nothing is done, and its action,
    reward and end are 0.
    """
    kept: list[tuple[Tensor, ...]] = []
    for t in range(horizon):
        seen = dream.tokens
        if bootstrap and t == horizon - 1:
            _, output, _ = _look(dream, agent)
            nothing = map(torch.zeros_like, kept[-1][3:6])
            kept.append((seen, output.logits, output.value, *nothing, output.critic))
            break
        given = None if actions is None else actions[:, t]
        dream, one = step(dream, agent, generator, action=given, temperature=temperature)
        # Not the prediction: logits of all tokens of all steps would be 150 MB at the paper's sizes.
        paid = one.outcome.reward if reward is None else reward(one.prediction, one.outcome)
        kept.append((seen, one.logits, one.value, one.action, paid, one.outcome.end, one.critic))
    return Rollout(*(torch.stack(column, dim=1) for column in zip(*kept, strict=True)))
