"""Imagination token by token, as token world models did it before POP: the reference that POP is timed against.

The same RetNet, codebook, heads and controller, but a frame costs K + 1 calls in sequence instead of one. A world
model that was trained with POP has not learnt to predict this way, so only the time of it means anything.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tokendream.agent import Agent
from tokendream.dream.imagine import Dream, Rollout
from tokendream.model.world_model import Outcome
from tokendream.nn.retnet import RetNetState
from tokendream.nn.sampling import sample


def imagine_step(
    agent: Agent,
    pending: Float[Tensor, "B L D"],
    state: RetNetState,
    generator: torch.Generator | None = None,
) -> tuple[Outcome, RetNetState]:
    """What follows `pending`, the tokens not absorbed yet, of which the last is an action.

    One `RetNet.chunk` over `pending`, whose last output gives reward, end and the first token; then K times
    `RetNet.step`, each fed with the code of the token just sampled. The state has absorbed the sampled frame.
    """
    M = agent.world_model
    y, state = M.retnet.chunk(pending, state)
    y = y[:, -1]
    reward, end = sample(M.reward(y), generator).float() - 1, sample(M.end(y), generator).bool()
    tokens = []
    for _ in range(len(M.prediction_tokens)):
        tokens.append(sample(M.next_frame(y), generator))
        y, state = M.retnet.step(_embed(agent, tokens[-1]).to(pending.dtype), state)
    return Outcome(torch.stack(tokens, dim=1), reward, end), state


@torch.no_grad()
def imagine(dream: Dream, agent: Agent, horizon: int, generator: torch.Generator | None = None) -> Rollout:
    """`dream.imagine.imagine` with frames predicted token by token.

    Only the first step has a whole block to absorb; later ones have absorbed their frame's tokens as they sampled
    them, and only the action is new: the cheapest way to do it.
    """
    M, tokens, world, policy = agent.world_model, dream.tokens, dream.world, dream.policy
    seen, logits, values, actions, outcomes = [], [], [], [], []
    for t in range(horizon):
        codes = agent.tokenizer.codes(tokens)
        output, policy = agent.actor_critic(codes, policy)
        action = sample(output.logits, generator)
        policy = agent.actor_critic.absorb_action(action, policy)
        at_action = M.action_embedding(action)[:, None]
        pending = torch.cat((codes, at_action), dim=1) if t == 0 else at_action
        outcome, world = imagine_step(agent, _lowered(pending), world, generator)
        seen.append(tokens)
        logits.append(output.logits)
        values.append(output.value)
        actions.append(action)
        outcomes.append(outcome)
        tokens = outcome.tokens
    return Rollout(
        tokens=torch.stack(seen, dim=1),
        logits=torch.stack(logits, dim=1),
        values=torch.stack(values, dim=1),
        actions=torch.stack(actions, dim=1),
        rewards=torch.stack([o.reward for o in outcomes], dim=1),
        ends=torch.stack([o.end for o in outcomes], dim=1),
    )


def _embed(agent: Agent, tokens: Int64[Tensor, " B"]) -> Float[Tensor, "B D"]:
    return agent.tokenizer.codes(tokens[:, None])[:, 0]


def _lowered(x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
    """In the type in which blocks enter the layers with POP too."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
