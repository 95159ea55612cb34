"""What an agent can do: the policy's distribution over it, and its tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from tokendream.nn.precision import raised
from tokendream.nn.sampling import sample
from tokendream.nn.tables import StackedTables

LARGEST_JOINT = 2**62
"""Most combinations of an action's components: an action is one int64."""


@dataclass(frozen=True)
class ActionSpace:
    """Actions of A components, component i one of `sizes[i]` choices; an action is their mixed-radix number.

        a = c_1 + sizes[1] (c_2 + sizes[2] (c_3 + ...))

    One token and one categorical distribution a component. So an action is one integer wherever it is only passed on.
    """

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        assert self.n <= LARGEST_JOINT, f"{self.n} actions do not fit an int64"

    @property
    def n(self) -> int:
        """How many actions there are: all combinations, 0 .. n-1."""
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
        for size in self.sizes[:-1]:
            found.append(action % size)
            action = action // size
        return torch.stack([*found, action], dim=-1)

    def action(self, components: Int64[Tensor, "*B A"]) -> Int64[Tensor, " *B"]:
        """The inverse of `components`."""
        return self._number(components.unbind(-1))

    def _number(self, choices: Sequence[Int64[Tensor, " *B"]]) -> Int64[Tensor, " *B"]:
        *others, found = choices
        for size, choice in zip(self.sizes[-2::-1], others[::-1], strict=True):
            found = found * size + choice
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
        chosen = [sample(part, generator, temperature=temperature) for part in parts]
        if epsilon > 0:
            u = torch.rand((len(self.sizes) + 1, *logits.shape[:-1]), device=logits.device, generator=generator)
            *uniform, explored = u.unbind()
            explored = explored < epsilon
            chosen = [
                torch.where(explored, (u * n).long().clamp(max=n - 1), choice)
                for u, n, choice in zip(uniform, self.sizes, chosen, strict=True)
            ]
        return self._number(chosen)

    def policy(self, logits: Float[Tensor, "*B L"]) -> Policy:
        """softmax(logits), component by component."""
        parts = raised(logits).split(self.sizes, dim=-1)
        return Policy(self, tuple(F.log_softmax(part, dim=-1) for part in parts))

    def embedding(self, width: int) -> nn.Module:
        """One vector for each choice of each component: "*B" -> "*B A width"."""
        return _Table(self, width)

    def random(self, rng: np.random.Generator, n: int) -> Int64[np.ndarray, " n"]:
        """Uniformly random actions for n environments, one draw for all together."""
        return rng.integers(self.n, size=n)


class Discrete(ActionSpace):
    """Actions 0 .. n-1 of one component, where an environment names the actions and not the components."""

    def __init__(self, n: int) -> None:
        super().__init__((n,))


class Policy(NamedTuple):
    """π(· | s) over actions whose components are independent of each other: one log π for each, float32."""

    actions: ActionSpace
    log_pi: tuple[Float[Tensor, "*B n"], ...]

    def log_prob(self, action: Int64[Tensor, " *B"]) -> Float[Tensor, " *B"]:
        """log π(a), the sum over its components."""
        parts = self.actions.components(action).unbind(-1)
        chosen = [p.gather(-1, a[..., None]).squeeze(-1) for p, a in zip(self.log_pi, parts, strict=True)]
        return torch.stack(chosen).sum(0)

    def entropy(self) -> Float[Tensor, " *B"]:
        """H[π] = -Σ π log π in nats, the sum over the components."""
        return torch.stack([-(p.exp() * p).sum(-1) for p in self.log_pi]).sum(0)


class _Table(StackedTables):
    """A table of each component's choices, whose rows are tokens of a block."""

    def __init__(self, actions: ActionSpace, width: int) -> None:
        super().__init__(actions.sizes, range(len(actions.sizes)), width)
        self.actions = actions

    def forward(self, action: Int64[Tensor, " *B"]) -> Float[Tensor, "*B A D"]:
        return super().forward(self.actions.components(action))
