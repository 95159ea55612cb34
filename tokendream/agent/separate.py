"""An actor and a critic that share nothing: two controllers side by side, each with its own eyes and memory.

The values' gradient then leaves the policy's features alone, for the price of a second network.
Source: Simulus (arXiv 2502.11537), on vectors.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tokendream.agent.actor_critic import ActorCritic, PolicyOutput, PolicyState, View
from tokendream.config.parts import ActorCriticConfig
from tokendream.nn.precision import raised
from tokendream.spaces.observations import Block


class SeparateActorCritic(ActorCritic):
    """The policy is this controller's, the value that of another one within it, `valuing`.

    Memories lie side by side in one state, the actor's in the first half of its width: a state of 2M.
    """

    def __init__(self, config: ActorCriticConfig, block: Block, code_width: int, downsamples: int) -> None:
        super().__init__(config, block, code_width, downsamples)
        self.valuing = ActorCritic(config, block, code_width, downsamples)
        del self.critic, self.valuing.actor

    def initial_state(self, batch: int) -> PolicyState:
        one = super().initial_state(batch)
        return PolicyState(*(torch.cat((x, x), dim=1) for x in one))

    def features(self, view: View) -> Float[Tensor, "B M2"]:
        return torch.cat((super().features(view), self.valuing.features(view)), dim=1)

    def action_tokens(self, action: Int64[Tensor, " B"]) -> Float[Tensor, "B A M2"]:
        return torch.cat((super().action_tokens(action), self.valuing.action_tokens(action)), dim=2)

    def _remember(self, x: Float[Tensor, "B M2"], state: PolicyState) -> PolicyState:
        halves = zip(x.chunk(2, dim=1), state.h.chunk(2, dim=1), state.c.chunk(2, dim=1), strict=True)
        (x_a, *a), (x_v, *v) = halves
        both = super()._remember(x_a, PolicyState(*a)), self.valuing._remember(x_v, PolicyState(*v))
        return PolicyState(*(torch.cat(pair, dim=1) for pair in zip(*both, strict=True)))

    def _along(self, x: Float[Tensor, "B N M2"], state: PolicyState) -> Float[Tensor, "B N M2"]:
        (x_a, *a), (x_v, *v) = zip(x.chunk(2, dim=2), state.h.chunk(2, dim=1), state.c.chunk(2, dim=1), strict=True)
        both = super()._along(x_a, PolicyState(*a)), self.valuing._along(x_v, PolicyState(*v))
        return torch.cat(both, dim=2)

    def _output(self, h: Float[Tensor, "*B M2"]) -> PolicyOutput:
        acting, valuing = h.chunk(2, dim=-1)
        return PolicyOutput(raised(self.actor(acting)), *self.valuing.valued(valuing))
