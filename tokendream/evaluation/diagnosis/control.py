"""The controller: are its values what it gets, and does it still choose?"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from tokendream.agent.agent import Agent
from tokendream.config.parts import DreamConfig
from tokendream.data.batch import Steps
from tokendream.evaluation.diagnosis.figures import Bars, Figure, PartFigures, number


def returns_ahead(
    reward: Float32[np.ndarray, " L"], discount: float, *, over: bool, ahead: int
) -> Float[np.ndarray, " L"]:
    """Discounted sums of rewards over the `ahead` steps from each step on; NaN where fewer were seen.

    `over`: the episode ended after its last step, so that nothing more was to come.
    """
    weights = discount ** np.arange(ahead)
    padded = np.concatenate((reward.astype(np.float64), np.full(ahead, 0.0 if over else np.nan)))
    return np.array([padded[t : t + ahead] @ weights for t in range(len(reward))])


@torch.no_grad()
def control(
    agent: Agent,
    tokens: Int64[Tensor, "B L K"],
    steps: Steps,
    real_return: Float[Tensor, " B"],
    action_names: tuple[str, ...],
    dream: DreamConfig,
    *,
    temperature: float,
) -> PartFigures:
    """Measure C at the last frame of each segment, its memory warmed by the frames before as dreams warm it.

    `real_return[b]` is what really followed, NaN where it is not known. Actions are counted as they are sampled at
    `temperature`; the entropy is that of the policy as it is trained, at 1. The caller chooses the precision.
    """
    view, C = agent.view(tokens, agent.tokenizer.codes(tokens)), agent.actor_critic
    memory = C.burn_in(view[:, :-1], steps.action[:, :-1], steps.mask[:, :-1], dream)
    output, _ = C(view[:, -1], memory)
    logits = output.logits.float()
    # Of an action of several components all are listed, and the likeliest choice is that of any of them.
    sizes = C.actions.sizes
    pi = torch.cat([(part / temperature).softmax(-1) for part in logits.split(sizes, dim=-1)], dim=-1)
    entropy = C.actions.policy(logits).entropy().mean()
    known = ~real_return.isnan()
    value, ahead = output.value[known].double(), real_return[known].double()
    nan, most = torch.tensor(math.nan), sum(map(math.log, sizes))
    spread, scale = (ahead.std(), (ahead - value).std()) if len(ahead) > 1 else (nan, nan)
    near, below = (
        f"near {ahead.mean():.3g}, the mean return that followed",
        f"below {spread:.3g}, the returns' own deviation",
    )
    if len(ahead) < 2:
        near = below = "not known: no return was seen to its end"
    corr = torch.corrcoef(torch.stack((value, ahead)))[0, 1] if len(ahead) > 1 else nan
    return PartFigures(
        "Controller",
        (
            Figure("mean value", number(value.mean()), near),
            Figure("correlation of value and return", number(corr), "above 0.3", 0.3, 0.0),
            Figure("scale of the advantage, G - v", number(scale), below, number(spread), number(2 * spread)),
            Figure("policy entropy", number(entropy), f"between 0.1 and {0.9 * most:.2f}: "
                   f"0 is a policy that no longer tries, {most:.2f} one that does not care",
                   *((0.1, 0.0) if entropy < 0.1 else (0.9 * most, most))),
            Figure("likeliest action's share", number(pi.mean(0).max()), "below 0.9: near 1 it presses one key",
                   0.9, 1.0),
        ),
        bars=tuple(
            Bars(title, names, tuple(share.tolist()), "several actions in use")
            for title, names, share in _bars(pi.mean(0), sizes, action_names)
        ),
    )  # fmt: skip


def _bars(
    pi: Float[Tensor, " L"], sizes: tuple[int, ...], names: tuple[str, ...]
) -> Iterator[tuple[str, tuple[str, ...], Float[Tensor, " n"]]]:
    """Titles, labels and shares of the bars: one group, or one a component."""
    if len(sizes) == 1 and len(names) == sizes[0]:
        yield "how often each action is chosen", names, pi
        return
    for name, share in zip(names, pi.split(sizes), strict=True):
        yield f"how often each choice of {name} is made", tuple(map(str, range(len(share)))), share
