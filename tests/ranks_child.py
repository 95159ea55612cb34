"""Updates of every phase, by one process on whole batches and by ranks on their parts: `torchrun ranks_child.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tokendream import ranks
from tokendream.agent.agent import Agent
from tokendream.config.config import Config, vary
from tokendream.config.presets import TINY
from tokendream.config.schedule import PARTS
from tokendream.device import Compute
from tokendream.nn import sampling
from tokendream.training.synthetic import StillEnvs, synthetic_replay
from tokendream.training.trainer import Trainer

WITH_ALL = dataclasses.replace(
    TINY,
    tokenizer=dataclasses.replace(TINY.tokenizer, changed_weight=1.0, lost_weight=1.0, revive_after=1),
    world_model=dataclasses.replace(
        TINY.world_model, dropout=0.0, by_loss=0.5, ensemble=2, events=True, segment_length=6
    ),
    dream=dataclasses.replace(TINY.dream, curiosity=0.5, centre_advantage=True, scale_by_quantiles=True, horizon=6),
)
"""Everything at once that looks at a whole batch."""

CONFIGS = {
    "all": WITH_ALL,
    "scaled": vary(
        vary(WITH_ALL, "dream", scale_by_quantiles=False, scale_advantage=True, reuse=2, group=2),
        "world_model",
        by_loss=0.0,
    ),
}


def trainer(config: Config) -> Trainer:
    """One with a full replay, whose weights are those of the seed."""
    training = {name: dataclasses.replace(getattr(config.training, name), batch=8) for name in PARTS}
    config = vary(config, "training", **training)
    torch.manual_seed(0)
    replay = synthetic_replay(400, config.env.size, torch.device("cpu"))
    envs = StillEnvs(config.env.size)
    return Trainer(
        config,
        Agent.from_config(config, envs.spaces),
        envs,
        replay,
        Compute(replay.device, torch.float32, kernels=False),
    )


@contextmanager
def same_draws() -> Iterator[None]:
    """Each dream draws by its place in the whole batch, whatever the part of it that a rank has."""

    def by_place(logits: torch.Tensor, generator: object, alike: int = 1) -> torch.Tensor:
        place = (torch.arange(len(logits)) + ranks.number() * len(logits)) // alike
        return (0.1 + 0.618 * place).frac().view(-1, *[1] * (logits.ndim - 1)).expand(*logits.shape[:-1], 1)

    before, sampling.uniform = sampling.uniform, by_place
    yield
    sampling.uniform = before


def updates(t: Trainer) -> dict[str, torch.Tensor]:
    """Gradients, figures and what is remembered, by name, after three updates of each phase."""
    found: dict[str, torch.Tensor] = {}
    for part in PARTS:
        for i in range(3):
            figures = t.update(part)
            found |= {
                f"{part} {i}: {name}": x
                for name, x in figures.items()
                if "perplexity" not in name and "codes_used" not in name
            }
        found |= {
            f"{part}: {name}": p.grad for name, p in getattr(t.agent, part).named_parameters() if p.grad is not None
        }
        found |= {f"{part}: {name}": x.float() for name, x in t.phases[part].tensors().items()}
    return found | {f"buffer: {name}": x.float() for name, x in t.agent.named_buffers() if name.endswith("idle")}


def main() -> None:
    with same_draws():
        alone = {name: updates(trainer(config)) for name, config in CONFIGS.items()}
        with ranks.joined():
            assert ranks.count() == 2
            for name, config in CONFIGS.items():
                t = trainer(config)
                together = updates(t)
                assert together.keys() == alone[name].keys()
                for what, x in together.items():
                    error = (x.nan_to_num(posinf=0) - alone[name][what].nan_to_num(posinf=0)).abs().max()
                    size = alone[name][what].nan_to_num(posinf=0).abs().max()
                    assert error <= 1e-5 + 2e-4 * size, (name, what, float(error), float(size))
                for p in t.agent.parameters():
                    mine = p.detach().clone()
                    ranks.broadcast(mine)
                    assert torch.equal(mine, p), "ranks hold other weights"
                if ranks.number() == 0:
                    print(name, len(together), "equal")


if __name__ == "__main__":
    main()
