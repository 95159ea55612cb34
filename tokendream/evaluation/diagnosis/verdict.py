"""Why is it not better: the figures furthest from what is healthy, what each means, and the flag to try first.

The three parts build on each other: what V loses M cannot foresee, and what M does not foresee C is not paid for in
dreams. So of two figures as far from healthy the one of the earlier part comes first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from tokendream.config.config import Config, leaves
from tokendream.config.parts import FITTED
from tokendream.evaluation.diagnosis.figures import Figure, PartFigures


@dataclass(frozen=True)
class Cause:
    """What an unhealthy figure means, and the field of the config to change first, and how."""

    meaning: str
    field: str
    change: str


MORE_V, MORE_M, MORE_C = ((f"training.{part}.updates", "more") for part in ("tokenizer", "world_model", "actor_critic"))

FINER, OWN_PIXELS = ("tokenizer.downsamples", "smaller"), ("tokenizer.kind", "dictionary")
"""What to change of a tokenizer that is not trained: cells of fewer pixels; codes that see no other cell."""

CAUSES = {
    "PSNR, dB": Cause("the tokens keep too little of a frame", *MORE_V),
    "LPIPS (AlexNet)": Cause("the tokens keep too little of a frame", *MORE_V),
    "moving pixels lost": Cause("what moves is not in the tokens, so neither M nor C can see it",
                                "tokenizer.lost_weight", "larger"),
    "codebook perplexity": Cause("a handful of codes stands for everything", "tokenizer.revive_after", "20"),
    "codes never used": Cause("most codes stand for nothing", "tokenizer.revive_after", "20"),
    "still tokens that flicker": Cause("tokens change where nothing moves, which M cannot foresee",
                                       "tokenizer.network", "patch"),
    "moving tokens that turn": Cause("things move and their tokens stay", "tokenizer.codebook_size", "larger"),
    "cells that are another": Cause("the book of a map lacks what is seen", "tokenizer.codebook_size", "larger"),
    "token accuracy": Cause("M foresees less than a frozen frame would", *MORE_M),
    "token accuracy where tokens change": Cause("M does not foresee what moves, so dreams drift at once", *MORE_M),
    "reward cross-entropy": Cause("M knows little more of rewards than how often they come", *MORE_M),
    "reward calibration error": Cause("dreams pay more or less often than the game", *MORE_M),
    "end cross-entropy": Cause("M knows little more of ends than how often they come", *MORE_M),
    "end calibration error": Cause("dreams end more or less often than the game", *MORE_M),
    "reward positive: recall": Cause("M does not expect most of the rewards that come, so dreams hardly pay for what "
                                     "the game pays for", *MORE_M),
    "reward negative: recall": Cause("M does not expect most of the punishments that come, so dreams do not teach to "
                                     "avoid them", *MORE_M),
    "end yes: recall": Cause("dreams go on where the game ends", *MORE_M),
    "reward positive: expected for each that came": Cause("dreams pay more often than the game", *MORE_M),
    "reward negative: expected for each that came": Cause("dreams punish more often than the game", *MORE_M),
    "end yes: expected for each that came": Cause("dreams end more often than the game", *MORE_M),
    "correlation of value and return": Cause("values say little of what follows", *MORE_C),
    "scale of the advantage, G - v": Cause("values are further from the returns than a constant would be", *MORE_C),
    "likeliest action's share": Cause("the policy presses one key", "dream.entropy_weight", "larger"),
}  # fmt: skip
"""By the names of figures, without the name of the part of an observation that may stand before."""

PROMISED = ("reward positive: expected for each that came", "reward negative: expected for each that came")
"""Figures whose cause is that M meets more rewards than come, where it does."""

TIMID = Cause(
    "the policy hardly prefers any action", "training.actor_critic.updates", "more, or a smaller entropy weight"
)
STUCK = Cause("the policy no longer tries anything else", "dream.entropy_weight", "larger")


@dataclass(frozen=True)
class Finding:
    """A figure that is not healthy, of which part, and its cause where one is known."""

    part: str
    figure: Figure
    cause: Cause | None


USE = ("codebook perplexity", "codes never used")
"""How a codebook is used: a cause only where it is learned and things are lost, else a fact about the game."""


def unhealthy(part: PartFigures, config: Config) -> list[Figure]:
    """Its figures that are not healthy, but for how a codebook is used where that is no cause."""
    lossy = any(_plain(f.name) == "moving pixels lost" and f.shortfall > 0 for f in part.figures)
    counts = config.tokenizer.kind == "vq" and lossy
    return [f for f in part.figures if f.shortfall > 0 and (counts or _plain(f.name) not in USE)]


def findings(parts: Sequence[PartFigures], config: Config) -> list[Finding]:
    """What is not healthy, the worst first; of each part its worst figure alone. Left out is a figure whose field is
    already as it should be."""
    found, values = [], leaves(dataclasses.asdict(config))
    for part in parts:
        causes = ((figure, _cause(figure, part.title, config)) for figure in unhealthy(part, config))
        known = [
            Finding(part.title, figure, cause)
            for figure, cause in causes
            if cause is None or str(values[cause.field]) != cause.change
        ]
        if known:
            found.append(max(known, key=lambda finding: (finding.figure.shortfall, finding.cause is not None)))
    return sorted(found, key=lambda finding: -finding.figure.shortfall)


def _cause(figure: Figure, part: str, config: Config) -> Cause | None:
    if figure.name == "policy entropy":
        return STUCK if figure.worst == 0 else TIMID
    cause, tokenizer, M = CAUSES.get(_plain(figure.name)), config.tokenizer.kind, config.world_model
    drawn_too_often = M.rewarded_segments > 0 and M.reward_head != "symlog" and not M.logit_adjustment
    if cause is not None and figure.name in PROMISED and drawn_too_often:
        meaning = f"{cause.meaning}, as M meets rewards more often than they come"
        return Cause(meaning, "world_model.logit_adjustment", "")
    if cause is None or part != "Tokenizer" or tokenizer not in FITTED or cause.field == "tokenizer.codebook_size":
        return cause
    if cause.field == "tokenizer.network":
        return Cause("a code of VGG16 sees beyond its cell: tokens change beside what moves", *OWN_PIXELS)
    return Cause(cause.meaning, *FINER)


def _plain(name: str) -> str:
    """A figure's name as `CAUSES` has it: "moving pixels lost" for that of a part, "screen: moving pixels lost"."""
    return next((known for known in CAUSES if name.endswith(f": {known}")), name)
