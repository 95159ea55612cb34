"""What an agent can do: the policy's distribution over it, its tokens, and what an environment receives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from tokendream.nn.precision import raised
from tokendream.nn.sampling import sample


@runtime_checkable
class Policy(Protocol):
    """π(· | s), a distribution over actions."""

    def log_prob(self, action: Int64[Tensor, " *B"]) -> Float[Tensor, " *B"]:
        """log π(a), float32."""

    def entropy(self) -> Float[Tensor, " *B"]:
        """H[π], in nats, float32."""


@runtime_checkable
class ActionSpace(Protocol):
    """The actions of an environment, and how C's outputs (`logits`) are a policy over them."""

    @property
    def tokens(self) -> int:
        """A, the tokens of an action in a block."""

    @property
    def logits(self) -> int:
        """How many numbers C gives for one action."""

    def sample(
        self,
        logits: Float[Tensor, "*B L"],
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
        epsilon: float = 0.0,
    ) -> Int64[Tensor, " *B"]:
        """An action of each policy at a temperature; with probability ε one that is uniformly random."""

    def policy(self, logits: Float[Tensor, "*B L"]) -> Policy:
        """The distribution that C's outputs describe."""

    def embedding(self, width: int) -> nn.Module:
        """A trainable table: actions "*B" -> tokens "*B A width"."""

    def to_env(self, action: Int64[Tensor, " B"]) -> Int64[np.ndarray, " B"]:
        """What the environments receive. Waits for the device."""

    def random(self, rng: np.random.Generator, n: int) -> Int64[np.ndarray, " n"]:
        """Uniformly random actions for n environments."""


class Categorical(NamedTuple):
    """A policy over n actions by its log π."""

    log_pi: Float[Tensor, "*B n"]

    def log_prob(self, action: Int64[Tensor, " *B"]) -> Float[Tensor, " *B"]:
        """log π(a)."""
        return self.log_pi.gather(-1, action[..., None]).squeeze(-1)

    def entropy(self) -> Float[Tensor, " *B"]:
        """H[π] = -Σ π log π."""
        return -(self.log_pi.exp() * self.log_pi).sum(-1)


@dataclass(frozen=True)
class Discrete:
    """Actions 0 .. n-1: one token, and one categorical distribution of n logits."""

    n: int
    tokens = 1

    @property
    def logits(self) -> int:
        """One for each action."""
        return self.n

    def sample(
        self,
        logits: Float[Tensor, "*B n"],
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
        epsilon: float = 0.0,
    ) -> Int64[Tensor, " *B"]:
        """An action from softmax(logits / temperature); with probability ε one that is uniformly random."""
        action = sample(logits.detach(), generator, temperature=temperature)
        if epsilon > 0:
            u = torch.rand((2, *action.shape), device=logits.device, generator=generator)
            uniform = (u[0] * self.n).long().clamp(max=self.n - 1)
            action = torch.where(u[1] < epsilon, uniform, action)
        return action

    def policy(self, logits: Float[Tensor, "*B n"]) -> Categorical:
        """softmax(logits)."""
        return Categorical(F.log_softmax(raised(logits), dim=-1))

    def embedding(self, width: int) -> nn.Module:
        """One vector for each action: "*B" -> "*B 1 width"."""
        return _Table(self.n, width)

    def to_env(self, action: Int64[Tensor, " B"]) -> Int64[np.ndarray, " B"]:
        """The numbers of the actions, on the host."""
        return action.cpu().numpy()

    def random(self, rng: np.random.Generator, n: int) -> Int64[np.ndarray, " n"]:
        """Uniformly random actions, one draw for all environments together."""
        return rng.integers(self.n, size=n)


class _Table(nn.Embedding):
    """A table whose rows are tokens of a block."""

    def forward(self, action: Int64[Tensor, " *B"]) -> Float[Tensor, "*B 1 D"]:
        return super().forward(action)[..., None, :]
