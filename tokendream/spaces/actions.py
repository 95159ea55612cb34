"""What an agent can do: the policy's distribution over it, its tokens, and what an environment receives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from tokendream.nn.precision import raised
from tokendream.nn.sampling import sample
from tokendream.nn.tables import StackedTables


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
    def n(self) -> int:
        """How many actions there are: 0 .. n-1."""

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


class _Numbered:
    """Actions that are numbers, 0 .. n-1, to the environments too."""

    n: int

    def to_env(self, action: Int64[Tensor, " B"]) -> Int64[np.ndarray, " B"]:
        """The numbers of the actions, on the host."""
        return action.cpu().numpy()

    def random(self, rng: np.random.Generator, n: int) -> Int64[np.ndarray, " n"]:
        """Uniformly random actions, one draw for all environments together."""
        return rng.integers(self.n, size=n)


@dataclass(frozen=True)
class Discrete(_Numbered):
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


class Factored(NamedTuple):
    """A policy over several components, independent of each other: one log π for each."""

    actions: Joint
    log_pi: tuple[Float[Tensor, "*B n"], ...]

    def log_prob(self, action: Int64[Tensor, " *B"]) -> Float[Tensor, " *B"]:
        """log π(a), the sum over its components."""
        parts = self.actions.components(action).unbind(-1)
        chosen = [p.gather(-1, a[..., None]).squeeze(-1) for p, a in zip(self.log_pi, parts, strict=True)]
        return torch.stack(chosen).sum(0)

    def entropy(self) -> Float[Tensor, " *B"]:
        """H[π], the sum over the components."""
        return torch.stack([Categorical(p).entropy() for p in self.log_pi]).sum(0)


LARGEST_JOINT = 2**62
"""Most combinations of an action's components: an action is one int64."""


@dataclass(frozen=True)
class Joint(_Numbered):
    """Actions of several components, component i one of `sizes[i]` choices; an action is their mixed-radix number.

        a = c_1 + sizes[1] (c_2 + sizes[2] (c_3 + ...))

    One token and one categorical distribution a component. So an action is one integer wherever it is only passed on.
    """

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        assert self.n <= LARGEST_JOINT, f"{self.n} actions do not fit an int64"

    @property
    def n(self) -> int:  # type: ignore[override]
        """All combinations."""
        return math.prod(self.sizes)

    @property
    def tokens(self) -> int:
        """A, one for each component."""
        return len(self.sizes)

    @property
    def logits(self) -> int:
        """One for each choice of each component."""
        return sum(self.sizes)

    def components(self, action: Int64[Tensor, " *B"]) -> Int64[Tensor, "*B A"]:
        """The choices that an action stands for."""
        found = []
        for size in self.sizes:
            found.append(action % size)
            action = action // size
        return torch.stack(found, dim=-1)

    def action(self, components: Int64[Tensor, "*B A"]) -> Int64[Tensor, " *B"]:
        """The inverse of `components`."""
        found = torch.zeros_like(components[..., 0])
        for i in reversed(range(len(self.sizes))):
            found = found * self.sizes[i] + components[..., i]
        return found

    def sample(
        self,
        logits: Float[Tensor, "*B L"],
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
        epsilon: float = 0.0,
    ) -> Int64[Tensor, " *B"]:
        """Every component from softmax(its logits / temperature); with probability ε all are uniformly random."""
        parts = logits.detach().split(self.sizes, dim=-1)
        chosen = torch.stack([sample(part, generator, temperature=temperature) for part in parts], dim=-1)
        if epsilon > 0:
            u = torch.rand((len(self.sizes) + 1, *chosen.shape[:-1]), device=logits.device, generator=generator)
            sizes = torch.tensor(self.sizes, device=logits.device)
            uniform = (u[1:].movedim(0, -1) * sizes).long().minimum(sizes - 1)
            chosen = torch.where((u[0] < epsilon)[..., None], uniform, chosen)
        return self.action(chosen)

    def policy(self, logits: Float[Tensor, "*B L"]) -> Factored:
        """softmax(logits), component by component."""
        parts = raised(logits).split(self.sizes, dim=-1)
        return Factored(self, tuple(F.log_softmax(part, dim=-1) for part in parts))

    def embedding(self, width: int) -> nn.Module:
        """One vector for each choice of each component: "*B" -> "*B A width"."""
        return _JointTable(self, width)


class _JointTable(StackedTables):
    """A table of each component's choices."""

    def __init__(self, actions: Joint, width: int) -> None:
        super().__init__(actions.sizes, range(len(actions.sizes)), width)
        self.actions = actions

    def forward(self, action: Int64[Tensor, " *B"]) -> Float[Tensor, "*B A D"]:
        return super().forward(self.actions.components(action))


class _Table(nn.Embedding):
    """A table whose rows are tokens of a block."""

    def forward(self, action: Int64[Tensor, " *B"]) -> Float[Tensor, "*B 1 D"]:
        return super().forward(action)[..., None, :]
