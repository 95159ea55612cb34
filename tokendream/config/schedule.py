"""The training cycle as plain data: an epoch is a list of phases, a phase a number of equal updates.

Display, sweep and benchmarks read a run's schedule from here, without what trains.
Source: REM (arXiv 2402.05643), section 3 and appendix on the training setup.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from tokendream.config.config import Config
from tokendream.config.parts import FITTED
from tokendream.config.training import PhaseConfig, TrainingConfig

PARTS = tuple(f.name for f in fields(TrainingConfig) if isinstance(f.default, PhaseConfig))
"""The parts that have a phase, in their order within an epoch; also their names in config and logs."""


@dataclass(frozen=True)
class ScheduledPhase:
    """One share of an epoch: `updates` updates, from `first_epoch` to `last_epoch`."""

    name: str
    first_epoch: int
    last_epoch: int
    updates: int

    def due(self, epoch: int) -> bool:
        """Whether this epoch has this phase."""
        return self.first_epoch <= epoch <= self.last_epoch and self.updates > 0


def schedule(config: Config) -> tuple[ScheduledPhase, ...]:
    """The phases of an epoch in their order: collecting, an update a step in every environment, and the parts.

    A tokenizer that is fitted sees each frame once; in its first epoch it sees all that were collected so far.
    """
    collect, settings = config.collect, {name: getattr(config.training, name) for name in PARTS}
    phases = {
        name: ScheduledPhase(name, part.first_epoch, part.last_epoch, part.updates) for name, part in settings.items()
    }
    if config.tokenizer.kind in FITTED:
        V = config.training.tokenizer
        last_epoch = max(V.first_epoch, min(V.last_epoch, collect.last_epoch))
        updates = -(-collect.steps // V.batch)
        phases["tokenizer"] = ScheduledPhase("tokenizer", V.first_epoch, last_epoch, updates)
    return (ScheduledPhase("collect", 1, collect.last_epoch, collect.steps // collect.envs), *phases.values())
