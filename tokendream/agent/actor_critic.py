"""C, the controller: a frame's codes to action logits and a value, with an LSTM that is also told its own actions.

It does not know what a world model is; real frames and dreamed ones look the same to it.
Source: REM (arXiv 2402.05643), appendix on the controller.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from tokendream.agent.per_part import PartsEncoder
from tokendream.config.parts import ActorCriticConfig, DreamConfig
from tokendream.nn.hl_gauss import HLGauss
from tokendream.nn.lstm import LSTM
from tokendream.nn.pixels import to_float
from tokendream.nn.precision import raised
from tokendream.spaces.observations import Block

View = Float[Tensor, "*N K E"] | UInt8[Tensor, "*N 3 S S"]
"""What C sees of a frame: its codes, or (an ablation) its pixels."""


class PolicyState(NamedTuple):
    """What the LSTM remembers: hidden and cell vector, float32."""

    h: Float[Tensor, "B M"]
    c: Float[Tensor, "B M"]

    def keep(self, mask: Bool[Tensor, " B"]) -> PolicyState:
        """Forget the past of those rows whose mask is False."""
        return PolicyState(*(x * mask[:, None] for x in self))

    def take(self, rows: Int64[Tensor, " n"]) -> PolicyState:
        """The past of some of the rows."""
        return PolicyState(*(x[rows] for x in self))


class PolicyOutput(NamedTuple):
    """Action logits, the state's value, and what the critic gave of which it is made; float32."""

    logits: Float[Tensor, "*B A"]
    value: Float[Tensor, " *B"]
    critic: Float[Tensor, "*B N"]


class ActorCritic(nn.Module):
    """conv3x3 E -> E/2, SiLU, conv3x3 -> E/4, SiLU, dense -> M, SiLU, LSTM(M) -> action logits and value.

    Observations that are not one image or map enter by `per_part.PartsEncoder`.

    For the paper's ablations: without `action_inputs` the LSTM is never told what was done; where C `sees` pixels, it
    gets frames instead of codes, brought to E channels on the grid by `downsamples` convolutions of stride 2 before
    all else (the network is ours: the paper does not say which it used).
    """

    def __init__(self, config: ActorCriticConfig, block: Block, code_width: int, downsamples: int) -> None:
        """`downsamples`: how often a frame's side is halved to that of its grid of tokens."""
        super().__init__()
        self.config, self.actions, self.grid = config, block.actions, block.grid
        E, M = code_width, config.lstm_width
        if self.grid is None:
            self.encoder = PartsEncoder(block.parts, E, M)
        else:
            self.conv_1 = nn.Conv2d(E, E // 2, 3, padding=1)
            self.conv_2 = nn.Conv2d(E // 2, E // 4, 3, padding=1)
            self.dense: nn.Module = nn.Linear(E // 4 * block.K, M)
        self.lstm = LSTM(M, M)
        self.actor = nn.Linear(M, self.actions.logits)
        self.bins = HLGauss(129, 15.0) if config.value_head == "symlog" else None
        self.critic = nn.Linear(M, 1 if self.bins is None else self.bins.outputs)
        if self.bins is not None:
            self.bins.begin(self.critic)
        if config.trunk == "norm":
            trunk = self if self.grid is not None else self.encoder
            trunk.dense = nn.Sequential(trunk.dense, nn.LayerNorm(M))
        self.action_embedding = self.actions.embedding(M) if config.action_inputs else None
        self.pixel_encoder = _pixel_encoder(downsamples, E) if config.sees == "pixels" else None

    def initial_state(self, batch: int) -> PolicyState:
        """No past."""
        zeros = self.actor.weight.new_zeros(batch, self.config.lstm_width)
        return PolicyState(zeros, zeros)

    def forward(self, view: View, state: PolicyState) -> tuple[PolicyOutput, PolicyState]:
        """See a frame: the policy and value there, and the LSTM's memory after it."""
        state = self._remember(self.features(view), state)
        return self._output(state.h), state

    def along(self, view: View, action: Int64[Tensor, "B T"], state: PolicyState) -> PolicyOutput:
        """See T frames, each followed by its action: the policies (B T A) and values (B T) at the frames."""
        seen = self.features(view.flatten(0, 1)).unflatten(0, action.shape)[:, :, None]
        if self.action_embedding is not None:
            seen = torch.cat((seen, self.action_tokens(action.flatten()).unflatten(0, action.shape)), dim=2)
        h = self._along(seen.flatten(1, 2), state)
        return self._output(h[:, :: seen.shape[2]])

    def _along(self, x: Float[Tensor, "B N M"], state: PolicyState) -> Float[Tensor, "B N M"]:
        return self.lstm.along(x, state.h, state.c)

    def _output(self, h: Float[Tensor, "*B M"]) -> PolicyOutput:
        return PolicyOutput(raised(self.actor(h)), *self.valued(h))

    def valued(self, h: Float[Tensor, "*B M"]) -> tuple[Float[Tensor, "*B"], Float[Tensor, "*B N"]]:
        """The value of a state, and what the critic gives of which it is made."""
        critic = raised(self.critic(h))
        return critic.squeeze(-1) if self.bins is None else self.bins.number(critic), critic

    def absorb_action(self, action: Int64[Tensor, " B"], state: PolicyState) -> PolicyState:
        """Remember which action was taken, token by token."""
        if self.action_embedding is not None:
            for token in self.action_tokens(action).unbind(1):
                state = self._remember(token, state)
        return state

    def action_tokens(self, action: Int64[Tensor, " B"]) -> Float[Tensor, "B A M"]:
        """What the LSTM receives of an action, where it is told."""
        assert self.action_embedding is not None
        return self.action_embedding(action)

    def features(self, view: View) -> Float[Tensor, "B M"]:
        """What the LSTM receives of a frame."""
        if self.grid is None:
            return self.encoder(view)
        if self.pixel_encoder is None:  # B K E is already the channels-last layout of a B E rows columns image: no copy
            x = view.unflatten(1, self.grid).permute(0, 3, 1, 2)
        else:
            x = self.pixel_encoder(to_float(view))
        x = F.silu(self.conv_2(F.silu(self.conv_1(x))))
        return F.silu(self.dense(x.flatten(1)))

    def _remember(self, x: Float[Tensor, "B M"], state: PolicyState) -> PolicyState:
        return PolicyState(*self.lstm.step(x, state.h, state.c))

    @torch.no_grad()
    def burn_in(
        self, view: View, action: Int64[Tensor, "B T"], mask: Bool[Tensor, "B T"], settings: DreamConfig
    ) -> PolicyState:
        """The memory after T real steps, frame then action, as in acting; masked steps leave it empty.

        `burn_in_actions` of the settings as false reproduces the published code, whose LSTM never gets the past actions
        here.
        """
        features, state = self.features(view.flatten(0, 1)).unflatten(0, action.shape), self.initial_state(len(action))
        for t in range(action.shape[1]):
            state = self._remember(features[:, t], state)
            if settings.burn_in_actions:
                state = self.absorb_action(action[:, t], state)
            state = state.keep(mask[:, t])
        return state


def _pixel_encoder(downsamples: int, width: int) -> nn.Sequential:
    """Frames to `width` channels on a grid, by convolutions of stride 2; channels double from 32 on.

    Without the norms a fresh one shows nothing: black and white frames differ in the fourth figure of its output.
    """
    channels = [3, *(min(32 << i, width) for i in range(downsamples - 1)), width]
    layers = [
        layer
        for before, after in itertools.pairwise(channels)
        for layer in (nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(1, after), nn.SiLU())
    ]
    return nn.Sequential(*layers)
