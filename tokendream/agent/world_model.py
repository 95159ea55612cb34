"""M, the world model: blocks of codes and actions to the next frame, the reward (as published its sign) and the end.

It sees codes (vectors), never frames, and does not know which tokenizer made them or who chooses the actions.
Source: REM (arXiv 2402.05643), section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from tokendream.agent.backbones import make_backbone
from tokendream.agent.ensemble import Ensemble
from tokendream.agent.events import Events
from tokendream.agent.masked import accuracy, cross_entropy, segment_loss
from tokendream.agent.per_part import Around, Embed, PerPart, make_frame_head, tables
from tokendream.agent.rewards import REWARDS, Adjusted, RewardHeads
from tokendream.config.parts import WorldModelConfig
from tokendream.data.batch import Steps
from tokendream.nn.backbone import State
from tokendream.nn.correspondence import Correspondence
from tokendream.nn.heads import head
from tokendream.nn.losses import Losses
from tokendream.nn.sampling import Sampler, sample
from tokendream.spaces.observations import Block
from tokendream.spaces.places import distances


class Prediction(NamedTuple):
    """Logits: the frames after P of T blocks, and the reward and end of all T blocks, or of those P.

    `hidden` is what the frames' tokens were read from, `read` what reward and end were.
    """

    next_frame: Float[Tensor, "B P K V"]
    reward: Float[Tensor, "B R N"]
    end: Float[Tensor, "B R 2"]
    hidden: Float[Tensor, "B P K D"]
    read: Float[Tensor, "B R F"]


class Outcome(NamedTuple):
    """A sample of what one step of the world brings."""

    tokens: Int64[Tensor, "B K"]
    reward: Float[Tensor, " B"]
    end: Bool[Tensor, " B"]


class WorldModel(nn.Module):
    """A sequence backbone over blocks |z_1 .. z_K a|, and three heads.

    `reward` and `end` of block t are read at its action token. `decoding` says where `next_frame` is: with "pop" (the
    paper's) at K prediction tokens, all in one call; with "token" at the action token and then at each token of the
    next frame itself, which is trained on all tokens at once but dreamed in K sequential calls (the way of IRIS).

    `copy_head` is a fourth head that says how much likelier each token is to stay what it is, a logit added to
    that token's own: most of a frame stays, and a network of few updates spends most of them on learning to copy. Not
    published; measured on CrazyClimber, 48 pixels, 300 updates of 16 x 10 frames: cross-entropy 0.49 against 0.86
    (where copying every token is right 92.6% of the time).

    `local_prediction` adds to each prediction token what a convolution sees around its place in the frame before, and
    the action. A prediction token sees history through one state of fixed size only: which of K tokens lay where has
    to be learned, and moving things are small. `outcome_from` = "frame" reads reward and end of the predicted blocks
    from the action token and from mean and maximum over the next frame's prediction tokens: what pays is often seen at
    one place. Neither is published; docs/evidence.md has what they give. "prediction" reads them at the last prediction
    token alone, which has seen the others (Simulus, arXiv 2502.11537).
    """

    def __init__(self, config: WorldModelConfig, block: Block, code_width: int, embed: Embed | None = None) -> None:
        """`embed` gives tokens' codes as they are at the time: what `logits_from_codes` needs."""
        super().__init__()
        self.config, self.block = config, block
        D = config.width
        self.action_embedding = block.actions.embedding(D)
        several = len(block.parts) > 1
        self.token_embedding: nn.Module | None = None
        if config.own_embedding:
            self.token_embedding = tables(block.parts, D) if several else nn.Embedding(block.vocabulary, D)
        self.projection: nn.Module = nn.Identity()
        if not config.own_embedding and several:
            self.projection = PerPart(block.parts, lambda part: nn.Linear(code_width, D))
        elif not config.own_embedding and code_width != D:
            self.projection = nn.Linear(code_width, D)
        if config.decoding == "pop":
            learned = 1 if config.shared_prediction_token else block.K
            self.prediction_tokens = nn.Parameter(torch.randn(learned, D) * config.prediction_token_std)
        self.slot_embedding = nn.Parameter(torch.randn(block.K1, D) * 0.02) if config.slot_embedding else None
        self.neighbourhood: nn.Module | None = None
        if config.local_prediction:
            around = partial(Around, width=D)
            self.neighbourhood = PerPart(block.parts, around) if several else around(block.parts[0])
        self.backbone = make_backbone(config, block)
        frame_head = partial(make_frame_head, config, block, code_width, embed)
        self.next_frame = frame_head()
        seen = 3 * D if config.outcome_from == "frame" else D
        self.rewards = REWARDS[config.reward_head]()
        reward_head, others = partial(head, seen, D, self.rewards.outputs, config.head), config.reward_heads - 1
        self.reward = reward_head()
        self.rewards.begin(self.reward[-1])
        self.other_rewards = RewardHeads(others, reward_head, self.rewards) if others else None
        self.adjusted = Adjusted(self.rewards.outputs) if config.logit_adjustment else nn.Identity()
        self.end = head(seen, D, 2, config.head)
        self.copy_head = nn.Linear(D, 1) if config.copy_head else None
        self.ensemble = Ensemble(config.ensemble, frame_head, block) if config.ensemble else None
        self.events = Events(D, block, config.head) if config.events else None
        self.draw_tokens = Sampler()
        self.correspondence = Correspondence(distances(block)) if config.copy_or_sample else None

    def initial_state(self, batch: int) -> State:
        """No past."""
        return self.backbone.initial_state(batch)

    def forward(
        self,
        codes: Float[Tensor, "B T K E"],
        tokens: Int64[Tensor, "B T K"],
        action: Int64[Tensor, "B T"],
        state: State,
        predict: slice = slice(None),
    ) -> tuple[Prediction, State]:
        """Absorb T blocks of `tokens`, seen as `codes`; predict the frame after each block that `predict` selects.

        Token by token, a frame's own tokens say what comes next: then `predict` cannot select the last block.
        """
        blocks = self._blocks(codes, tokens, action)
        if self.config.decoding == "pop":
            u = self._prediction_tokens(blocks[:, predict])
            y, y_next, state = self.backbone.pop(blocks, u, state, predict, tail=1)
        else:
            y, state = self.backbone.absorb(blocks, state)
            chosen = range(tokens.shape[1])[predict]
            assert tokens.shape[1] - 1 not in chosen, "the last block's next frame is not there to be read"
            y_next = torch.cat(
                (y[:, predict, -1:], y[:, chosen.start + 1 : chosen.stop + 1, : self.block.K - 1]), dim=2
            )
        outcome = y[:, :, -1]
        if self.config.outcome_from == "frame":
            outcome = torch.cat((outcome[:, predict], y_next.mean(2), y_next.amax(2)), dim=-1)
        elif self.config.outcome_from == "prediction":
            outcome = y_next[:, :, -1]
        next_frame = self._next_frame(y_next, tokens[:, predict])
        return Prediction(next_frame, self.reward(outcome), self.end(outcome), y_next, outcome), state

    @torch.no_grad()
    def imagine(
        self,
        codes: Float[Tensor, "B K E"],
        tokens: Int64[Tensor, "B K"],
        action: Int64[Tensor, " B"],
        state: State,
        generator: torch.Generator | None = None,
        *,
        embed: Embed,
        alike: int = 1,
    ) -> tuple[Outcome, Prediction, State]:
        """One step of the world: absorb (frame, action), sample the reward, the end and the next frame.

        Also what they were drawn from (T = P = 1): the frame's tokens at `token_temperature`, the rest as predicted.
        The state has absorbed the block and nothing of the next frame. `embed` gives the codes of sampled tokens
        where they are needed at once. Chance falls alike in each `alike` neighbours of the batch.
        """
        temperature = self.config.token_temperature
        draw = partial(self.draw_tokens, generator=generator, temperature=temperature, alike=alike)
        if self.config.decoding == "pop":
            prediction, state = self(codes[:, None], tokens[:, None], action[:, None], state)
            frame = draw(prediction.next_frame[:, 0])
        else:
            blocks = self._blocks(codes[:, None], tokens[:, None], action[:, None])
            y, state = self.backbone.absorb(blocks, state, tail=1)
            frame, logits, hidden = self._token_by_token(y[:, 0, 0], tokens, state, draw, embed)
            outcome = y[:, :, 0]
            prediction = Prediction(logits[:, None], self.reward(outcome), self.end(outcome), hidden[:, None], outcome)
        reward, end = prediction.reward[:, 0], prediction.end[:, 0]
        paid = self.rewards.sample(reward, generator, alike)
        drawn = Outcome(frame, paid, sample(end, generator, alike=alike).bool())
        return drawn, prediction, state

    def _token_by_token(
        self,
        y: Float[Tensor, "B D"],
        before: Int64[Tensor, "B K"],
        state: State,
        draw: Callable[[Float[Tensor, "B V"]], Int64[Tensor, " B"]],
        embed: Embed,
    ) -> tuple[Int64[Tensor, "B K"], Float[Tensor, "B K V"], Float[Tensor, "B K D"]]:
        """Sample the frame after `before`, whose action token gave y, in K - 1 sequential calls.

        Also the logits, and what they were read from.
        """
        frame, logits, hidden = list[Tensor](), list[Tensor](), list[Tensor]()
        for k in range(self.block.K):
            if k > 0:
                y, state = self.backbone.step(self._newest(frame, embed), state)
            hidden.append(y)
            logits.append(self._next_frame(y, before[:, k], k))
            frame.append(draw(logits[-1]))
        return torch.stack(frame, dim=1), torch.stack(logits, dim=1), torch.stack(hidden, dim=1)

    def _newest(self, frame: list[Tensor], embed: Embed) -> Float[Tensor, "B D"]:
        """The last of a frame's first tokens, as it enters the backbone."""
        k, one = len(frame) - 1, self.block.grid is not None  # on a grid a token has one code, wherever it stands
        tokens = frame[-1][:, None] if one else F.pad(torch.stack(frame, dim=1), (0, self.block.K - len(frame)))
        x = self._embedded(embed(tokens), tokens)
        return self._at(x if one else x[:, k : k + 1], slice(k, k + 1))[:, 0]

    def loss(
        self,
        codes: Float[Tensor, "B T K E"],
        tokens: Int64[Tensor, "B T K"],
        steps: Steps,
        changed: Bool[Tensor, "B T-1 K"] | None = None,
    ) -> Losses:
        """Cross-entropies of next frame, reward and end, each a mean over what is scored.

        `changed` says where each frame but the first differs from the one before it, for the prediction of events.
        The first `context` blocks are not scored, nor is padding: block `context - 1` predicts the first scored
        frame, and the last block's next frame lies outside the segment; only an outcome read from its action needs it.
        """
        c = self.config.context
        read = slice(None if self.config.outcome_from == "action" else -1)
        blocks = codes[:, read], tokens[:, read], steps.action[:, read]
        prediction, _ = self(*blocks, self.initial_state(len(codes)), slice(c - 1, tokens.shape[1] - 1))
        in_frame = steps.mask[:, c:, None].expand(tokens[:, c:].shape)
        known, scored = self.outcomes
        reward, end = self.adjusted(prediction.reward[:, known]), prediction.end[:, known]
        paid, mask = self.rewards.target(steps.reward[:, scored]), steps.mask[:, scored]
        terms = {
            "next_frame": cross_entropy(prediction.next_frame, tokens[:, c:], in_frame),
            "reward": cross_entropy(reward, paid, mask),
            "end": cross_entropy(end, steps.end[:, scored].long(), mask),
        }
        info = {"accuracy": accuracy(prediction.next_frame, tokens[:, c:], in_frame)}
        if self.other_rewards is not None:
            terms["reward_heads"] = self.other_rewards.loss(prediction.read[:, known], paid, mask, self.adjusted)
        if self.ensemble is not None:
            terms["ensemble"] = self.ensemble.loss(prediction.hidden, tokens[:, c:], in_frame)
            info["disagreement"] = self.ensemble.disagreement(prediction.hidden[:, 0].detach()).mean()
        segments = None
        if self.config.by_loss > 0:
            segments = segment_loss(prediction.next_frame, tokens[:, c:], in_frame) + segment_loss(reward, paid, mask)
        if self.events is not None:
            assert changed is not None, "events are predicted from where frames changed"
            terms["events"], of_each = self.events.loss(prediction.hidden, changed[:, c:], steps.mask[:, c:])
            segments = None if segments is None else segments + of_each
        return Losses(terms, info, segments)

    @property
    def outcomes(self) -> tuple[slice, slice]:
        """Where scored rewards and ends are when frames are predicted from block `context - 1` on: among the
        predicted ones, and among the segment's blocks."""
        c = self.config.context
        return (slice(c, None),) * 2 if self.config.outcome_from == "action" else (slice(None), slice(c - 1, -1))

    def _prediction_tokens(self, blocks: Float[Tensor, "B P K1 D"]) -> Float[Tensor, "*S K D"]:
        """u, behind these blocks: the same everywhere, or with what lies around each place and the action."""
        K, u = self.block.K, self.prediction_tokens.expand(self.block.K, -1)
        if self.neighbourhood is None:
            return u
        frames, action = blocks[:, :, :K], blocks[:, :, K:]
        return u + self.neighbourhood(frames) + action.sum(2, keepdim=True)

    def _blocks(
        self, codes: Float[Tensor, "B T K E"], tokens: Int64[Tensor, "B T K"], action: Int64[Tensor, "B T"]
    ) -> Float[Tensor, "B T K1 D"]:
        """What enters the backbone: frames and then actions, in the precision of autocast."""
        blocks = torch.cat((self._embedded(codes, tokens), _lowered(self.action_embedding(action))), dim=2)
        return self._at(blocks, slice(None))

    def _at(self, x: Float[Tensor, "*B N D"], slots: slice) -> Float[Tensor, "*B N D"]:
        """Tokens of these slots of a block, told which ones they are."""
        return x if self.slot_embedding is None else x + self.slot_embedding[slots].to(x.dtype)

    def _embedded(self, codes: Float[Tensor, "*B K E"], tokens: Int64[Tensor, "*B K"]) -> Float[Tensor, "*B K D"]:
        """Frame tokens as the backbone sees them: V's codes, projected where they are of another width, or M's own."""
        return _lowered(self.projection(codes) if self.token_embedding is None else self.token_embedding(tokens))

    def _next_frame(
        self, y: Float[Tensor, "*B D"], before: Int64[Tensor, " *B"], slot: int | None = None
    ) -> Float[Tensor, "*B V"]:
        """Logits of tokens of the next frame, of all slots or of one, whose places held the tokens `before`."""
        if slot is None or not isinstance(self.next_frame, PerPart):
            logits = self.next_frame(y)
        else:
            logits = self.next_frame.at(y, slot, self.block.vocabulary)
        if self.copy_head is None:
            return logits
        return logits.scatter_add(-1, before[..., None], self.copy_head(y).to(logits.dtype))


def _lowered(x: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """In the type of matrix products, in which tokens enter the layers."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
