"""The agent at work for one player: frames in, memories kept, dreams out, each under the agent's own precision."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from tokendream.data.batch import Steps
from tokendream.dream import imagine
from tokendream.dream.imagine import Dream
from tokendream.reports.paint import paint, paint_each
from tokendream.runfolder.load import Trained
from tokendream.spaces.actions import Discrete


class PolicyValue(NamedTuple):
    """What C makes of a moment: the distribution its action is drawn from, and the value.

    Of an action of several components `probs` says where each is expected, from its first choice, 0, to its last, 1.
    """

    probs: Float32[np.ndarray, " A"]
    value: float


class PlayingAgent:
    """A trained agent with a generator of its own. Nothing in it remembers an episode: memories are in `Dream`s."""

    def __init__(self, trained: Trained, *, seed: int, temperature: float) -> None:
        self.trained, self.temperature = trained, temperature
        self._agent, self._compute = trained.agent, trained.compute
        self._generator = torch.Generator(trained.compute.device).manual_seed(seed)
        self.world_model = trained.agent.world_model

    def fresh(self, frame: UInt8[np.ndarray, "*O"]) -> Dream:
        """A moment without a past."""
        agent = self._agent
        return Dream(self.encode(frame), agent.world_model.initial_state(1), agent.actor_critic.initial_state(1))

    @torch.no_grad()
    def warm(self, frames: UInt8[np.ndarray, " L *O"], steps: Steps) -> Dream:
        """The moment of the last frame, with both memories as training's dreams begin."""
        if len(frames) < 2:
            return self.fresh(frames[-1])
        device, config = self._compute.device, self.trained.config
        context = Steps(*(x.to(device) for x in (steps.action, steps.reward, steps.end, steps.mask)))
        with self._compute.autocast():
            tokens = self._agent.tokenizer.encode(torch.from_numpy(frames).to(device))
            return imagine.start(self._agent, tokens[None], context, config.dream)

    def corrected(self, dream: Dream, frame: UInt8[np.ndarray, "*O"], *, end: bool) -> Dream:
        """The same memories before a true frame instead of the predicted one; after an end, none."""
        return self.fresh(frame) if end else Dream(self.encode(frame), dream.world, dream.policy)

    @torch.no_grad()
    def step(self, dream: Dream, action: int | None = None) -> tuple[Dream, imagine.Step]:
        """One dreamed step for every dream of the batch, by the agent's own actions or by the one that is given."""
        B, device = len(dream.tokens), self._compute.device
        given = None if action is None else torch.full((B,), action, device=device)
        with self._compute.autocast():
            return imagine.step(dream, self._agent, self._generator, action=given, temperature=self.temperature)

    @torch.no_grad()
    def policy_value(self, dream: Dream) -> PolicyValue:
        """What C makes of a moment, whose memory stays as it is."""
        with self._compute.autocast():
            view = self._agent.view(dream.tokens, self._agent.tokenizer.codes(dream.tokens))
            output, _ = self._agent.actor_critic(view, dream.policy)
        logits, actions = output.logits[0].float() / self.temperature, self._agent.actor_critic.actions
        if not isinstance(actions, Discrete):
            parts = [part.softmax(-1) for part in logits.split(actions.sizes)]
            probs = torch.stack([(p * torch.linspace(0, 1, len(p), device=p.device)).sum() for p in parts])
        else:
            probs = logits.softmax(-1)
        return PolicyValue(probs.cpu().numpy(), float(output.value[0]))

    def encode(self, frame: UInt8[np.ndarray, "*O"]) -> Int64[Tensor, "1 K"]:
        """A frame's tokens."""
        with self._compute.autocast():
            return self._agent.tokenizer.encode(torch.from_numpy(frame[None]).to(self._compute.device))

    def decode(self, tokens: Int64[Tensor, "B K"]) -> UInt8[np.ndarray, " B *O"]:
        """The frames that tokens stand for, on the host."""
        with self._compute.autocast():
            return self._agent.tokenizer.decode(tokens).cpu().numpy()

    def pictures(self, tokens: Int64[Tensor, "B K"]) -> UInt8[np.ndarray, "B 3 H W"]:
        """What tokens stand for, as pictures."""
        return paint_each(self.decode(tokens), self._agent.layout)

    def film(self, tokens: Int64[Tensor, "T K"]) -> UInt8[np.ndarray, "3 H W"]:
        """The last of moments that follow each other, as a picture: of features, with where they came from."""
        layout = self._agent.layout
        return paint(self.decode(tokens if layout else tokens[-1:]), layout)[-1]

    def picture(self, frame: UInt8[np.ndarray, "*O"]) -> UInt8[np.ndarray, "3 H W"]:
        """A real frame as a picture."""
        return paint(frame[None], self._agent.layout)[0]

    def palette(self) -> list[list[float]]:
        """A colour, as (L, a, b) of OKLab, for each of the V codes: near codes have near colours.

        Their principal components by rank: the first is the lightness, the next two the hue.
        """
        V = self._agent.tokenizer
        token = torch.arange(V.vocabulary, device=self._compute.device)
        if self._agent.layout is None:
            codes = V.codes(token).float().cpu()
        else:  # tokens of several parts share their numbers
            turn = 2 * torch.pi * token.float().cpu() / len(token)
            codes = torch.stack((turn, turn.cos(), turn.sin()), dim=1)
        _, _, components = torch.linalg.svd(codes - codes.mean(0), full_matrices=False)
        rank = (codes @ components[:3].T).argsort(0).argsort(0).float() / max(1, len(codes) - 1)
        rank = F.pad(rank, (0, 3 - rank.shape[1]), value=0.5)  # two codes differ in one direction
        hue = torch.atan2(rank[:, 2] - 0.5, rank[:, 1] - 0.5)
        lab = torch.stack((0.36 + 0.4 * rank[:, 0], 0.085 * hue.cos(), 0.085 * hue.sin()), dim=1)
        return [[round(x, 3) for x in colour] for colour in lab.tolist()]


FUTURES, FUTURE_STEPS = 16, 48
"""Number of futures of one moment, and their steps before new ones are drawn."""


class Futures:
    """FUTURES dreams of one moment, each with actions of the agent's choice; new ones after FUTURE_STEPS steps."""

    def __init__(self, agent: PlayingAgent, origin: Dream, first: int | None) -> None:
        self._agent, self._origin, self.first = agent, origin, first
        self.dreams, self.at = origin, 0
        self.returns: Float32[np.ndarray, " n"]
        self.ends: Bool[np.ndarray, " n"]
        self._begin()

    def step(self) -> None:
        """One step of all of them; the first may be one action for all."""
        if self.at == FUTURE_STEPS:
            self._begin()
            return
        self.dreams, dreamt = self._agent.step(self.dreams, self.first if self.at == 0 else None)
        self.at += 1
        reward = dreamt.outcome.reward.cpu().numpy()
        self.returns = self.returns + reward * ~self.ends
        self.ends = self.ends | dreamt.outcome.end.cpu().numpy()

    def _begin(self) -> None:
        self.dreams, self.at = self._origin.expand(FUTURES), 0
        self.returns = np.zeros(FUTURES, np.float32)
        self.ends = np.zeros(FUTURES, bool)


def ids(tokens: Int64[Tensor, "B K"]) -> Int32[np.ndarray, " K"]:
    """The tokens of the first of a batch, for a view."""
    return tokens[0].cpu().numpy().astype(np.int32)
