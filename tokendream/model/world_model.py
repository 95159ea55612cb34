"""M, the world model: blocks of codes and actions to the next frame, the reward's sign and the end.

It sees codes (vectors), never frames, and does not know which tokenizer made them or who chooses the actions.
Source: REM (arXiv 2402.05643), section 3.2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from tokendream.data.batch import Steps
from tokendream.losses import Losses
from tokendream.nn.retnet import RetNet, RetNetState
from tokendream.nn.sampling import sample


class Prediction(NamedTuple):
    """Logits about T blocks: their own reward and end, and the frames after P of them."""

    next_frame: Float[Tensor, "B P K V"]
    reward: Float[Tensor, "B T 3"]
    end: Float[Tensor, "B T 2"]


class Outcome(NamedTuple):
    """A sample of what one step of the world brings."""

    tokens: Int64[Tensor, "B K"]
    reward: Float[Tensor, " B"]
    end: Bool[Tensor, " B"]


class WorldModel(nn.Module):
    """RetNet with POP over blocks |z_1 .. z_K a|, and three heads.

    `reward` and `end` of block t are read at its action token, `next_frame` from the K prediction tokens. With
    `stay` a fourth head says how much likelier each token is to stay what it is, a logit added to that token's own:
    most of a frame stays, and a network of few updates spends most of them on learning to copy. Not published;
    measured on CrazyClimber, 48 pixels, 300 updates of 16 x 10 frames: cross-entropy 0.49 against 0.86 (where
    copying every token is right 92.6% of the time).
    """

    def __init__(
        self,
        *,
        n_actions: int,
        tokens_per_frame: int,
        codebook_size: int,
        width: int = 256,
        layers: int = 5,
        heads: int = 4,
        ffn_factor: int = 4,
        dropout: float = 0.1,
        context: int = 2,
        stay: bool = False,
        token_temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.context, self.token_temperature = context, token_temperature
        self.action_embedding = nn.Embedding(n_actions, width)
        self.prediction_tokens = nn.Parameter(torch.randn(tokens_per_frame, width) * 0.02)
        self.retnet = RetNet(width, layers, heads, ffn_factor, dropout)
        self.next_frame = _head(width, codebook_size)
        self.reward = _head(width, 3)
        self.end = _head(width, 2)
        self.stay = nn.Linear(width, 1) if stay else None

    def initial_state(self, batch: int) -> RetNetState:
        """No past."""
        return self.retnet.initial_state(batch)

    def forward(
        self,
        codes: Float[Tensor, "B T K D"],
        tokens: Int64[Tensor, "B T K"],
        action: Int64[Tensor, "B T"],
        state: RetNetState,
        predict: slice = slice(None),
    ) -> tuple[Prediction, RetNetState]:
        """Absorb T blocks of `tokens`, seen as `codes`; predict the frame after each block that `predict` selects."""
        blocks = torch.cat((codes, self.action_embedding(action)[:, :, None]), dim=2)
        if torch.is_autocast_enabled(blocks.device.type):
            blocks = blocks.to(torch.get_autocast_dtype(blocks.device.type))
        y, y_next, state = self.retnet.pop(blocks, self.prediction_tokens, state, predict, tail=1)
        next_frame = self.next_frame(y_next)
        if self.stay is not None:
            bonus = self.stay(y_next).to(next_frame.dtype)
            next_frame = next_frame.scatter_add(-1, tokens[:, predict, :, None], bonus)
        at_action = y[:, :, 0]
        return Prediction(next_frame, self.reward(at_action), self.end(at_action)), state

    @torch.no_grad()
    def imagine(
        self,
        codes: Float[Tensor, "B K D"],
        tokens: Int64[Tensor, "B K"],
        action: Int64[Tensor, " B"],
        state: RetNetState,
        generator: torch.Generator | None = None,
    ) -> tuple[Outcome, Prediction, RetNetState]:
        """One step of the world: absorb (frame, action), sample the reward's sign, the end and the next frame.

        Also what they were drawn from (T = P = 1): the frame's tokens at `token_temperature`, the rest as predicted.
        """
        prediction, state = self(codes[:, None], tokens[:, None], action[:, None], state)
        return (
            Outcome(
                sample(prediction.next_frame[:, 0], generator, temperature=self.token_temperature),
                sample(prediction.reward[:, 0], generator).float() - 1,
                sample(prediction.end[:, 0], generator).bool(),
            ),
            prediction,
            state,
        )

    def loss(self, codes: Float[Tensor, "B T K D"], tokens: Int64[Tensor, "B T K"], steps: Steps) -> Losses:
        """Cross-entropies of next frame, reward sign and end, each a mean over what is scored.

        The first `context` blocks are not scored, nor is padding: block `context - 1` predicts the first scored
        frame, and the last block's next frame lies outside the segment.
        """
        c = self.context
        prediction, _ = self(codes, tokens, steps.action, self.initial_state(len(codes)), slice(c - 1, -1))
        scored = steps.mask[:, c:]
        sign = steps.reward.sign().long() + 1
        in_frame = scored[:, :, None].expand(tokens[:, c:].shape)
        return Losses(
            {
                "next_frame": _cross_entropy(prediction.next_frame, tokens[:, c:], in_frame),
                "reward": _cross_entropy(prediction.reward[:, c:], sign[:, c:], scored),
                "end": _cross_entropy(prediction.end[:, c:], steps.end[:, c:].long(), scored),
            },
            {"accuracy": _accuracy(prediction.next_frame, tokens[:, c:], in_frame)},
        )


def _head(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))


def _cross_entropy(
    logits: Float[Tensor, "*B V"], target: Int64[Tensor, "*B"], mask: Bool[Tensor, "*B"]
) -> Float[Tensor, ""]:
    """Mean over the masked-in entries, in float32; 0 where the mask is empty (a batch of very short episodes)."""
    target = target.masked_fill(~mask, -100).flatten()
    total = F.cross_entropy(logits.flatten(0, -2).float(), target, ignore_index=-100, reduction="sum")
    return total / mask.sum().clamp(min=1)


def _accuracy(
    logits: Float[Tensor, "*B V"], target: Int64[Tensor, "*B"], mask: Bool[Tensor, "*B"]
) -> Float[Tensor, ""]:
    hit = (logits.detach().argmax(-1) == target) & mask
    return hit.sum() / mask.sum().clamp(min=1)
