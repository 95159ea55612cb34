"""A run folder from outside: a free name for it, its first files, its lock, and what is left in it after a fault."""

from __future__ import annotations

import datetime
import itertools
import json
import subprocess
from pathlib import Path

import safetensors.torch
import torch

from tokendream import __version__, ranks
from tokendream.config.config import Config
from tokendream.device import Compute, kind_of_processor, processor
from tokendream.errors import ConfigError, NonFiniteError
from tokendream.kernels.install import describe
from tokendream.runfolder import files
from tokendream.runfolder.metrics import read_metrics
from tokendream.runfolder.names import quoted, shown

PACKAGE = Path(__file__).resolve().parents[1]

FINAL = Path("evaluation", "final.json")
"""In a run's folder: the scores of its final evaluation."""


def free_name(config: Config) -> Path:
    """A folder under runs/ that does not exist yet, named after the game, the preset and the seed."""
    name = f"{config.env_name.replace('/', '-').replace(':', '-')}-{config.preset}-seed{config.seed}"
    names = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
    return next(path for n in names if not (path := Path("runs") / n).exists())


def finished(run_dir: Path) -> bool:
    """Whether a run has come to its end: its final evaluation is there."""
    return (run_dir / FINAL).is_file()


def contents(run_dir: Path) -> set[str]:
    """What lies in a run's folder, without the half of a config that a crash in a run's first instant leaves behind."""
    return {path.name for path in run_dir.iterdir()} - {"config.json.part"} if run_dir.is_dir() else set()


def check_free(run_dir: Path) -> None:
    """Raise ConfigError unless a run may begin in this folder: there is none, or nothing in it."""
    if run_dir.exists() and not run_dir.is_dir():
        raise ConfigError(f"{shown(run_dir)} is no folder: name another --run-dir")
    if names := contents(run_dir):
        advice = f"go on with --resume {quoted(run_dir)} or " if "config.json" in names else ""
        raise ConfigError(f"{shown(run_dir)} exists and is not empty: {advice}name another --run-dir")


def check_none_lost(run_dir: Path, checkpoint_every: int) -> None:
    """Raise ConfigError where a run without a checkpoint had some: it was trained beyond the first one, or ended."""
    records = read_metrics(run_dir / "metrics.jsonl")
    last = int(records[-1]["epoch"]) if records else 0
    # The first one may have failed, on a full disk: that run can begin again.
    if last > checkpoint_every or finished(run_dir):
        trained = f"to epoch {last}" if last else "to its end"
        raise ConfigError(
            f"{shown(run_dir)} was trained {trained}, but its checkpoints are gone: copy its checkpoints/ and replay/ "
            "back, or begin a new run in another folder"
        )


def write_facts(run_dir: Path, compute: Compute) -> bool:
    """Write what a reader of the results asks, unless it is there, as it is where a run began before (a sweep begins
    its runs by their config alone). Returns whether it was."""
    if known := (run_dir / "facts.json").exists():
        return known
    files.replace_text(run_dir / "facts.json", json.dumps(facts(compute), indent=2) + "\n")
    return False


def read_facts(run_dir: Path) -> dict[str, str]:
    """What `write_facts` wrote; nothing where it is not there or broken, for no run depends on it.

    A run of before 2026-12 has "1 threads": it is read as what is written now, for the same machine.
    """
    path = run_dir / "facts.json"
    try:
        facts = json.loads(files.read_text(path)) if path.is_file() else {}
    except (ValueError, RecursionError):
        return {}
    return (
        {str(k): str(v).replace("CPU, 1 threads", "CPU, 1 thread") for k, v in facts.items()}
        if isinstance(facts, dict)
        else {}
    )


def note_resumed(run_dir: Path, compute: Compute, epoch: int) -> None:
    """Add to the facts from which epoch on a run has been on another machine than it began on, or back on that."""
    differs, facts = moved(run_dir, compute), read_facts(run_dir)
    if (differs or "resumed" in facts) and not finished(run_dir):
        now = ", ".join(f"{what} {value}" for what, (_, value) in differs.items()) or "as it began"
        said = "; ".join(filter(None, (facts.get("resumed"), f"epoch {epoch}: {now}")))
        _add(run_dir, facts, resumed=said)


def note_cost(run_dir: Path, seconds: float, process_seconds: float | None) -> None:
    """Add to the facts what the training of a run took: minutes, and hours of a core, where these are known."""
    facts, minutes = read_facts(run_dir), f"{seconds / 60:.3g}"
    if facts.get("minutes") != minutes:  # else nothing was trained since
        facts.pop("core_hours", None)
        hours = {}
        if process_seconds is not None and ranks.count() == 1:  # other ranks are other processes
            hours["core_hours"] = f"{process_seconds / 3600:.3g}"
        _add(run_dir, facts, minutes=minutes, **hours)


def _add(run_dir: Path, facts: dict[str, str], **more: str) -> None:
    files.replace_text(run_dir / "facts.json", json.dumps(facts | more, indent=2) + "\n")


def moved(run_dir: Path, compute: Compute) -> dict[str, tuple[str, str]]:
    """What of the machine is another than where the run began, then and now, so that its bits will differ."""
    began, now = read_facts(run_dir), _machine(compute)
    if finished(run_dir):  # nothing is left to differ
        return {}
    return {key: (began[key], now[key]) for key in now if began.get(key, now[key]) != now[key]}


def keep_batch(run_dir: Path, error: NonFiniteError) -> Path:
    """Write the batch that was not finite into `faults/`, with the message in the file's metadata."""
    where = str(error).split(": ")[0]
    path = run_dir / "faults" / f"{where.replace(', ', '-').replace(' ', '-')}.safetensors"
    tensors = {name: tensor.cpu().contiguous() for name, tensor in error.batch.items()}
    files.replace(path, safetensors.torch.save(tensors, {"message": str(error)}))
    return path


def _machine(compute: Compute) -> dict[str, str]:
    """What must not change for a run to stay the same. `device` names the threads and the precision too."""
    return {
        "device": describe(compute),
        "processor": processor(),
        "torch": torch.__version__,
        "version": __version__,
        "ranks": str(ranks.count()),
    }


def facts(compute: Compute) -> dict[str, str]:
    """What a reader of the results asks about the machine and the code."""
    return {
        **_machine(compute),
        "deterministic": "yes" if compute.deterministic or compute.device.type == "cpu" else "no",
        "kind": kind_of_processor(compute.device),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "precision": str(compute.dtype).removeprefix("torch."),
        "commit": commit(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def commit(package: Path = PACKAGE) -> str:
    """The commit of the checkout this package is in, marked where the package differs from it; "" outside of one."""
    if not (package.parent / ".git").exists():  # an installed copy may lie inside somebody else's repository
        return ""

    def git(*words: str) -> str:
        command = ["git", "-C", str(package), *words]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=True
        ).stdout.strip()

    try:
        # Only the package is compared: a command may just have written figures of its own.
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return ""
