"""The agent: its three parts side by side, and how it acts in the real world."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from tokendream.agent import ablated
from tokendream.agent.actor_critic import ActorCritic, PolicyState, View
from tokendream.agent.world_model import WorldModel
from tokendream.config.config import Config
from tokendream.device import Compute
from tokendream.nn.sampling import sample
from tokendream.tokenizers.vq import Tokenizer


class Agent(nn.Module):
    """Tokenizer V, world model M and controller C. Acting needs V and C; dreaming needs all three."""

    def __init__(self, tokenizer: Tokenizer, world_model: WorldModel, actor_critic: ActorCritic) -> None:
        super().__init__()
        self.tokenizer, self.world_model, self.actor_critic = tokenizer, world_model, actor_critic

    @classmethod
    def from_config(cls, config: Config, n_actions: int) -> Agent:
        """A fresh agent for an environment with `n_actions` actions, in training mode."""
        V, M, C = config.tokenizer, config.world_model, config.actor_critic
        agent = cls(
            Tokenizer(
                channels=V.channels,
                downsamples=V.downsamples,
                codebook_size=V.codebook_size,
                code_width=V.code_width,
                perceptual=V.perceptual,
                perceptual_weight=V.perceptual_weight,
                revive_after=V.revive_after,
                changed_weight=V.changed_weight,
                lost_weight=V.lost_weight,
                network=V.network,
            ),
            WorldModel(
                n_actions=n_actions,
                tokens_per_frame=config.tokens_per_frame,
                codebook_size=V.codebook_size,
                width=V.code_width,
                layers=M.layers,
                heads=M.heads,
                ffn_factor=M.ffn_factor,
                dropout=M.dropout,
                context=M.context,
                stay=M.stay,
                token_temperature=M.token_temperature,
                backbone=M.backbone,
                decoding=M.decoding,
                own_embedding=M.own_embedding,
                shared_prediction_token=M.shared_prediction_token,
            ),
            ActorCritic(
                n_actions=n_actions,
                grid=config.grid,
                code_width=V.code_width,
                lstm_width=C.lstm_width,
                action_inputs=C.action_inputs,
                halvings=V.downsamples if C.sees == "pixels" else 0,
            ),
        )
        ablated.apply(config.control, agent.world_model, agent.actor_critic)
        return agent

    def view(self, tokens: Int64[Tensor, "*B K"], codes: Float[Tensor, "*B K E"]) -> View:
        """What the controller sees of frames: their codes, or in an ablation what they decode to."""
        return codes if self.actor_critic.retina is None else self.tokenizer.decode(tokens)

    @torch.no_grad()
    def act(
        self,
        frame: UInt8[Tensor, "B 3 S S"],
        state: PolicyState,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
        epsilon: float = 0.0,
    ) -> tuple[Int64[Tensor, " B"], PolicyState]:
        """Choose an action for each frame, uniformly random with probability ε, and remember it."""
        tokens = self.tokenizer.encode(frame)
        output, state = self.actor_critic(self.view(tokens, self.tokenizer.codes(tokens)), state)
        action = sample(output.logits, generator, temperature=temperature)
        if epsilon > 0:
            u = torch.rand(2, len(frame), device=frame.device, generator=generator)
            uniform = (u[0] * output.logits.shape[-1]).long().clamp(max=output.logits.shape[-1] - 1)
            action = torch.where(u[1] < epsilon, uniform, action)
        return action, self.actor_critic.absorb_action(action, state)


class AgentPolicy:
    """The agent as a player of games: numpy frames in, actions out, one memory a lane.

    Its random numbers are its own, so that evaluating changes nothing about training.
    """

    def __init__(self, agent: Agent, compute: Compute, *, temperature: float, seed: int) -> None:
        self._agent, self._compute, self._temperature = agent, compute, temperature
        self._generator = torch.Generator(compute.device).manual_seed(seed)
        self._memory: PolicyState | None = None

    def __call__(self, frame: UInt8[np.ndarray, "n 3 S S"], first: Bool[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Actions for the current frames; lanes where `first` is True have begun a new game."""
        if self._memory is None:
            self._memory = self._agent.actor_critic.initial_state(len(frame))
        memory = self._memory.keep(torch.from_numpy(~first).to(self._compute.device))
        seen = torch.from_numpy(frame).to(self._compute.device)
        with self._compute.autocast():
            action, self._memory = self._agent.act(seen, memory, self._generator, temperature=self._temperature)
        return action.cpu().numpy()
