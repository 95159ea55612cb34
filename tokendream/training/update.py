"""One gradient update: AdamW (inside M, where asked for, Muon) with the method's decay groups, clipping, and no step on
anything non-finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tokendream import ranks
from tokendream.config.training import PhaseConfig
from tokendream.device import Compute
from tokendream.nn.losses import Losses
from tokendream.training.adamw import AdamW
from tokendream.training.muon import Muon


def optimiser_for(module: nn.Module, phase: PhaseConfig) -> AdamW:
    """The optimiser of a part's trainable parameters; weight decay acts on those that `phase.decayed` names, and on
    what Muon steps, which are weights of linear layers.

    Fused everywhere. On a GPU its step can be captured: call it once the module is where it will train.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    parameters = [p for _, p in named]
    linear = {id(m.weight) for m in module.modules() if isinstance(m, nn.Linear)}
    decayed = [
        phase.decayed == "all" or (phase.decayed == "matrices" and p.ndim >= 2) or id(p) in linear for p in parameters
    ]
    inner = [phase.optimiser == "muon" and name.startswith("backbone.") and p.ndim == 2 for name, p in named]
    kinds = list(zip(parameters, decayed, inner, strict=True))
    groups: list[dict[str, Any]] = [
        {"params": [p for p, yes, muon in kinds if yes and not muon]},
        {"params": [p for p, yes, muon in kinds if not yes and not muon], "weight_decay": 0.0},
        {"params": [p for p, _, muon in kinds if muon], "orthogonal": True},
    ]
    kind = Muon if phase.optimiser == "muon" else AdamW
    return kind(
        [g for g in groups if g["params"]],
        lr=phase.learning_rate,
        weight_decay=phase.weight_decay,
        fused=True,
        capturable=parameters[0].is_cuda,
    )


def gradient_update(
    batch: Any,
    *,
    loss: Callable[[Any], Losses],
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    clip: float,
    compute: Compute,
) -> tuple[Losses, Float[Tensor, ""]]:
    """One gradient update of a part from what was drawn: forward, backward, clip and step. Losses, and the norm.

    Where several ranks train, of all their parts of the batch.

    Nothing in it waits for the device, takes anything from the host or depends on a value for its shapes, so that a
    GPU can capture it whole (see `kernels.cuda_graph`).
    """
    module.train()
    with compute.searching():
        with compute.autocast():
            losses = loss(batch)
        norm = apply(losses, optimiser, clip)
    module.eval()
    return of_all_ranks(losses.detach()), norm


def apply(losses: Losses, optimiser: torch.optim.Optimizer, max_norm: float) -> Float[Tensor, ""]:
    """Backward, mean over ranks, clip to `max_norm`, step. Returns the gradient's norm before clipping, on the device.

    With a non-finite norm nothing is stepped, on any device and without waiting for it: the fused AdamW takes the
    same `found_inf` flag that gradient scalers use. The caller reads the norm when it can and stops (see `guard`).
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    optimiser.zero_grad(set_to_none=True)
    losses.total.backward()
    ranks.average([p.grad for p in parameters if p.grad is not None])
    norm = nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True)
    setattr(optimiser, "found_inf", torch.isfinite(norm).logical_not().float())  # noqa: B010, undeclared there
    optimiser.step()
    return norm


def of_all_ranks(losses: Losses) -> Losses:
    """The losses of the whole batch, from those of each rank's part; where there is one rank, the same. `info` is a
    mean over ranks: perplexity and codes in use then describe a rank's part, not the whole batch."""
    if ranks.count() == 1:
        return losses
    names, figures = [*losses.terms, *losses.info], [*losses.terms.values(), *losses.info.values()]
    means = dict(zip(names, ranks.averaged(torch.stack([x.float() for x in figures])), strict=True))
    terms, info = ({name: means[name] for name in given} for given in (losses.terms, losses.info))
    return Losses(terms, info, None if losses.segments is None else ranks.gathered(losses.segments))
