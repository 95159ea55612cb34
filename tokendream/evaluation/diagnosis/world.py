"""The world model: the next frame against copying the last one, rewards and ends, and how fast a dream drifts."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from tokendream.agent.agent import Agent
from tokendream.agent.world_model import Prediction
from tokendream.config.parts import DreamConfig
from tokendream.data.batch import Segment
from tokendream.dream import imagine
from tokendream.evaluation.diagnosis.figures import Curve, Figure, PartFigures, classification, number
from tokendream.evaluation.diagnosis.parts import parts_ahead, values_of
from tokendream.tokenizers.parts import PartsTokenizer
from tokendream.tokenizers.protocol import Tokenizer

DISTANCES = (1, 2, 5, 10, 20)
"""Dreamed steps at which the drift is measured."""


@torch.no_grad()
def world(agent: Agent, one_step: Segment, long: Segment | None, dream: DreamConfig, *, seed: int = 0) -> PartFigures:
    """Measure M: one step ahead on segments as it was trained on, and over `long` ones, whose first `dream.burn_in` + 1
    frames are seen and whose rest is dreamed under the actions that were really taken.

    None of them is padded. The caller chooses the precision with autocast.
    """
    M, c = agent.world_model, agent.world_model.config.context
    tokens, steps = one_step
    prediction = one_step_ahead(agent, one_step)
    logits, target, before = prediction.next_frame.float(), tokens[:, c:], tokens[:, c - 1 : -1]
    likely = logits.argmax(-1)
    hit, changed = likely == target, target != before
    loss = F.cross_entropy(logits.flatten(0, 2), target.flatten(), reduction="none").view(target.shape)
    frequency = torch.bincount(target.flatten()) / target.numel()
    marginal, copied = torch.special.entr(frequency).sum(), 1 - changed.float().mean()
    still = float(copied)
    shares: tuple[Figure, ...] = (
        Figure(
            "token accuracy", number(hit.float().mean()), f"above {copied:.3f}, copying the last frame",
            still, still - 0.5,
        ),
        Figure(
            "token accuracy where tokens change", number(hit[changed].float().mean()), "well above 0, as copying is",
            0.3, 0.0,
        ),
        Figure("next-frame cross-entropy", number(loss.mean()), f"far below {marginal:.3g}, the tokens' own entropy"),
        Figure("cross-entropy where tokens change", number(loss[changed].mean()), f"below {marginal:.3g} too"),
    )  # fmt: skip
    shares += tuple(change_expected(agent.tokenizer, logits, target, before))
    parts = agent.block.parts
    shares += tuple(
        Figure(f"{part.part}: token accuracy", number(hit[..., part.where].float().mean()),
               f"above {1 - changed[..., part.where].float().mean():.3f}, copying the last one")
        for part in parts if len(parts) > 1
    )  # fmt: skip
    shares += tuple(parts_ahead(agent.tokenizer, likely, target, before))
    known, scored = M.outcomes
    sign = M.rewards.signs(steps.reward[:, scored]).flatten()
    logits = M.rewards.sign_logits(prediction.reward[:, known]).flatten(0, 1)
    rewards = classification(logits, sign, ("negative", "none", "positive"), "reward")
    # Ends unforeseen cost less than rewards: a recall of 0 counts half.
    end = steps.end[:, scored].long().flatten()
    ends = classification(prediction.end[:, known].flatten(0, 1), end, ("no", "yes"), "end", worst=-0.5)
    curves = () if long is None else drift(agent, long, dream, seed=seed)
    return PartFigures("World model", (*shares, *rewards, *ends), curves)


def change_expected(
    tokenizer: Tokenizer, logits: Float[Tensor, "B P K V"], real: Int64[Tensor, "B P K"], before: Int64[Tensor, "B P K"]
) -> Iterator[Figure]:
    """What the mean of M's prediction explains of the change of codes, where tokens change: 1 for all of it, 0 for no
    more than copying does. Where many codes look alike the likeliest is often another one, though the mean is near.
    Nothing of observations of several parts."""
    if isinstance(tokenizer, PartsTokenizer):
        return
    book = tokenizer.codes(torch.arange(logits.shape[-1], device=real.device)).float()
    changed = real != before
    code = book[real[changed]]
    missed = (logits[changed].softmax(-1) @ book - code).square().sum()
    yield Figure("change of codes expected", number(1 - missed / (book[before[changed]] - code).square().sum()),
                 "towards 1; 0 is copying")  # fmt: skip


@torch.no_grad()
def one_step_ahead(agent: Agent, segment: Segment) -> Prediction:
    """What M predicts of each frame of segments that it is scored on, knowing all before it. `WorldModel.outcomes` says
    where the rewards and ends of the same steps are."""
    (tokens, steps), M = segment, agent.world_model
    predicted = slice(M.config.context - 1, -1)
    return M(agent.tokenizer.codes(tokens), tokens, steps.action, M.initial_state(len(tokens)), predicted)[0]


@torch.no_grad()
def drift(agent: Agent, long: Segment, dream: DreamConfig, *, seed: int) -> tuple[Curve, ...]:
    """Dreams against what really happened, at `DISTANCES` steps, beside a dream in which nothing ever moves."""
    (tokens, steps), burn_in = long, dream.burn_in
    seen = slice(0, burn_in + 1)
    generator = torch.Generator(tokens.device).manual_seed(seed)
    actions = steps.action[:, burn_in:]
    begin = imagine.start(agent, tokens[:, seen], steps.during(seen), dream)
    rollout = imagine.imagine(begin, agent, actions.shape[1], generator, actions=actions)
    at = [d for d in DISTANCES if d < actions.shape[1]]
    agreement: dict[str, list[float]] = {"dream": [], "frozen": []}
    error: dict[str, list[float]] = {"dream": [], "frozen": []}
    start = tokens[:, burn_in]
    for d in at:
        real = tokens[:, burn_in + d]
        shown = values_of(agent.tokenizer, real)
        for name, other in (("dream", rollout.tokens[:, d]), ("frozen", start)):
            agreement[name].append(float((other == real).float().mean()))
            error[name].append(float((values_of(agent.tokenizer, other) - shown).square().mean()))
    x = tuple(map(float, at))
    curves = (
        Curve("tokens that agree with what happened", "dreamed steps", x, {k: tuple(v) for k, v in agreement.items()},
              "the dream stays above the frozen frame for as long as the horizon"),
        Curve("squared error of the frame", "dreamed steps", x, {k: tuple(v) for k, v in error.items()},
              "the dream stays below the frozen frame for as long as the horizon"),
    )  # fmt: skip
    return curves if shown.shape[1] else curves[:1]
