"""What a run is going to do, in the line that it begins with."""

from __future__ import annotations

from collections.abc import Mapping

from tokendream.config.config import Config
from tokendream.config.schedule import PARTS, schedule
from tokendream.reports.display import Remaining, clock


def plan(config: Config, costs: Mapping[str, float]) -> str:
    """What a run is going to do and, by its updates' seconds, how long that takes here."""
    batch = {part: getattr(config.training, part).batch for part in PARTS}
    batch["actor_critic"] *= config.dream.group
    phases = ", ".join(
        f"{phase.name.replace('_', ' ')} {phase.updates} x {batch[phase.name]} from epoch {phase.first_epoch}"
        for phase in schedule(config)[1:]
    )
    known = "The time left is shown as the phases are timed."
    if costs:
        remaining = Remaining(schedule(config), config.epochs)
        remaining.expect(costs)
        known = f"Training takes about {clock(remaining.seconds(1)[0])} on this machine, by the first seconds' timing."
    return (
        f"plan: {_count(config.epochs, 'epoch')}, {_count(config.env_steps, 'env step')}; updates an epoch: {phases}; "
        f"then {_count(config.evaluation.episodes, 'game')} of evaluation and a report, refreshed on the way. {known}"
        f"{_too_short(config)}"
    )


def _too_short(config: Config) -> str:
    """Which parts the run ends before, if any."""
    late = [phase for phase in schedule(config)[1:] if phase.updates and phase.first_epoch > config.epochs]
    if not late:
        return ""
    names = " and ".join(f"the {phase.name}" for phase in late)
    names = names.replace("actor_critic", "actor-critic").replace("_", " ").capitalize()
    epochs = " and ".join(map(str, dict.fromkeys(phase.first_epoch for phase in late)))
    verbs = ("is", "it begins") if len(late) == 1 else ("are", "they begin")
    return f" {names} {verbs[0]} not trained: {verbs[1]} in epoch{'s' if ' ' in epochs else ''} {epochs}."


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
