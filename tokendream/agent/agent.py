"""The agent: its three parts side by side, and how it acts in the real world."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from tokendream.agent import ablated
from tokendream.agent.actor_critic import ActorCritic, PolicyState, View
from tokendream.agent.separate import SeparateActorCritic
from tokendream.agent.world_model import WorldModel
from tokendream.config.config import Config
from tokendream.config.limits import LONGEST_BLOCK
from tokendream.config.schedule import schedule
from tokendream.device import Compute
from tokendream.errors import require
from tokendream.spaces.layout import Layout
from tokendream.spaces.observations import Block, Spaces, image_spaces
from tokendream.tokenizers.build import build
from tokendream.tokenizers.parts import PartsTokenizer
from tokendream.tokenizers.protocol import Fitted, Tokenizer


class Agent(nn.Module):
    """Tokenizer V, world model M and controller C. Acting needs V and C; dreaming needs all three."""

    tokenizer: Tokenizer

    def __init__(self, tokenizer: Tokenizer, world_model: WorldModel, actor_critic: ActorCritic, blind: bool) -> None:
        super().__init__()
        self.blind = blind
        self.tokenizer, self.world_model, self.actor_critic = tokenizer, world_model, actor_critic

    @property
    def block(self) -> Block:
        """The slots of a step."""
        return self.world_model.block

    @property
    def layout(self) -> Layout | None:
        """How observations lie in a frame; None where a frame is one image."""
        return self.tokenizer.layout if isinstance(self.tokenizer, PartsTokenizer) else None

    @classmethod
    def from_config(cls, config: Config, spaces: Spaces | int) -> Agent:
        """A fresh agent for an environment's spaces, in training mode; a number stands for one RGB image and so many
        actions.

        Raises ConfigError for pixels as C's input without an image, for more tokens than M can take, and for a
        tokenizer whose fitting phase never runs.
        """
        if isinstance(spaces, int):
            spaces = image_spaces(config.env.size, spaces)
        if not spaces.observation.is_image:
            require(config.actor_critic.sees == "codes", "actor_critic.sees", "codes for these observations", "pixels")
        V, slots = build(config.tokenizer, spaces.observation)
        if any(isinstance(each, Fitted) for each in (V.each if isinstance(V, PartsTokenizer) else [V])):
            phase = next(phase for phase in schedule(config) if phase.name == "tokenizer")
            field, first = "training.tokenizer", phase.first_epoch
            require(phase.updates > 0, f"{field}.updates", "at least 1, as what encodes these is fitted", 0)
            require(phase.last_epoch >= first, f"{field}.last_epoch", f"at least first_epoch ({first}), when what "
                    "encodes these is fitted", phase.last_epoch)  # fmt: skip
        block, E, control = Block(slots, spaces.actions), V.code_width, config.control
        require(block.K1 <= LONGEST_BLOCK or config.world_model.backbone != "retnet", "tokens of a step",
                f"at most {LONGEST_BLOCK} for a RetNet (fewer --env.keys, a smaller --env.size, more "
                "--tokenizer.downsamples or --tokenizer.map-cells)", block.K1)  # fmt: skip
        M = ablated.WORLD_MODELS.get(control, WorldModel)(config.world_model, block, E, V.codes)
        kind = SeparateActorCritic if config.actor_critic.separate else ActorCritic
        C = kind(config.actor_critic, block, E, config.tokenizer.downsamples)
        return cls(V, M, C, blind=control == "blind-policy")

    def view(self, tokens: Int64[Tensor, "*B K"], codes: Float[Tensor, "*B K E"]) -> View:
        """What the controller sees of frames: their codes, or in an ablation what they decode to; nothing if blind."""
        seen = codes if self.actor_critic.pixel_encoder is None else self.tokenizer.decode(tokens)
        return torch.zeros_like(seen) if self.blind else seen

    @torch.no_grad()
    def act(
        self,
        frame: UInt8[Tensor, " B *O"],
        state: PolicyState,
        generator: torch.Generator | None = None,
        *,
        temperature: float,
        epsilon: float = 0.0,
        before: Int64[Tensor, " B"] | None = None,
        sticky: float = 0.0,
    ) -> tuple[Int64[Tensor, " B"], PolicyState]:
        """Choose an action for each frame, uniformly random with probability ε, and remember it.

        With probability `sticky` it is the action `before`, which is -1 where a game has just begun.
        """
        tokens = self.tokenizer.encode(frame)
        output, state = self.actor_critic(self.view(tokens, self.tokenizer.codes(tokens)), state)
        action = self.actor_critic.actions.sample(output.logits, generator, temperature=temperature, epsilon=epsilon)
        if sticky > 0:
            assert before is not None, "sticky actions need those before"
            again = torch.rand(action.shape, device=action.device, generator=generator) < sticky
            action = torch.where(again & (before >= 0), before, action)
        return action, self.actor_critic.absorb_action(action, state)


class AgentPolicy:
    """The agent as a player of games: numpy frames in, actions out, one memory an environment.

    Its random numbers are its own, so that evaluating changes nothing about training. `capture` may turn a choice of
    actions, which draws from the generator that it is given too, into one that a GPU replays.
    """

    def __init__(
        self,
        agent: Agent,
        compute: Compute,
        *,
        temperature: float,
        seed: int,
        capture: Callable[[Callable, torch.Generator], Callable] = lambda run, generator: run,
    ) -> None:
        self._agent, self._compute, self._temperature = agent, compute, temperature
        self._generator = torch.Generator(compute.device).manual_seed(seed)
        self._choose = capture(self._act, self._generator)
        self._memory: PolicyState | None = None

    def __call__(self, frame: UInt8[np.ndarray, " n *O"], first: Bool[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Actions for the current frames; where `first` is True a new game has begun."""
        if self._memory is None:
            self._memory = self._agent.actor_critic.initial_state(len(frame))
        action, self._memory = self._choose(torch.from_numpy(frame), torch.from_numpy(~first), self._memory)
        return action.cpu().numpy()

    def _act(self, frame: Tensor, going_on: Tensor, memory: PolicyState) -> tuple[Tensor, PolicyState]:
        """Actions and the memory after them; where a game is not `going_on` its memory is forgotten first."""
        device = self._compute.device
        memory = memory.keep(going_on.to(device))
        with self._compute.autocast():
            return self._agent.act(frame.to(device), memory, self._generator, temperature=self._temperature)
