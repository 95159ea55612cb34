"""A run's agent as one file (`tokendream export`), with what a reader asks about it first."""

from __future__ import annotations

from pathlib import Path

from tokendream import __version__
from tokendream.errors import ConfigError
from tokendream.evaluation.evaluation import Evaluation
from tokendream.reports.page import score
from tokendream.reports.results import RunFolder
from tokendream.runfolder import agent_file
from tokendream.runfolder.agent_file import SUFFIX, SavedAgent
from tokendream.runfolder.load import Trained
from tokendream.runfolder.names import HERE, name_of, shown


def export(run: Path, out: Path | None, *, half: bool) -> int:
    """Write the agent of a run's last checkpoint to `out`, by default a file of the run's name in the working folder.

    An exported file is taken too, to write it at half its size. Raises ConfigError for a run or a name that cannot be
    used, OSError where the disk does not take it.
    """
    out = out or Path(HERE) / f"{name_of(run)}{SUFFIX}"
    if out.suffix != SUFFIX:
        raise ConfigError(f"an agent's file ends in {SUFFIX}, not {out.name!r}")
    if out.resolve() == run.resolve():
        raise ConfigError(f"{shown(out)} would take its own place: name another file with --out")
    trained = Trained.load(run, "cpu")
    facts = dict(trained.facts) or known(RunFolder.read(run), trained.epoch)
    size = agent_file.write(
        out, SavedAgent(trained.config, trained.epoch, trained.agent.state_dict(), facts), half=half
    )
    print(f"{shown(out)} ({size / 1e6:.1f} MB)")
    for name, fact in facts.items():
        print(f"  {name:14} {fact}")
    return 0


def known(folder: RunFolder, epoch: int) -> dict[str, str]:
    """Preset, budget, score, and on what it was trained: lines for people, as far as they are known after an epoch."""
    config, record = folder.config, next((r for r in folder.records if r["epoch"] == epoch), {})
    facts = {"env": config.env_name, "preset": config.preset, "seed": str(config.seed),
             "epochs": f"{epoch} of {config.epochs}"}  # fmt: skip
    if record:
        facts["budget"] = f"{record['env_steps']:,} env steps, {record.get('seconds', 0) / 60:.1f} min of training"
    found = [e for e in folder.evaluations if e.protocol.get("epoch") == epoch]
    if found:
        facts["score"] = _score(found[-1])
    if folder.random_player:
        facts["random player"] = _score(folder.random_player)
    facts |= {name: folder.facts[name] for name in ("processor", "device", "commit") if folder.facts.get(name)}
    return facts | {"version": __version__}


def _score(evaluation: Evaluation) -> str:
    low, high = map(score, evaluation.interval)
    return f"{score(evaluation.mean)}, mean of {len(evaluation.scores)} games, 95% interval {low} to {high}"
