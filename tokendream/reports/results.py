"""What a run folder holds, read as far as it is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokendream.config.config import Config
from tokendream.envs import atari100k
from tokendream.envs.atari100k import Reference
from tokendream.evaluation.evaluation import Evaluation, EvaluationError
from tokendream.runfolder import files
from tokendream.runfolder.folder import FINAL, read_facts
from tokendream.runfolder.load import read_config
from tokendream.runfolder.metrics import Record, read_metrics


@dataclass(frozen=True)
class RunFolder:
    """The parts of a run folder that a report shows; empty or None where a run has not got that far.

    Where results are kept (results/), the final evaluations lie beside the config, not in evaluation/.
    """

    path: Path
    config: Config
    facts: dict[str, str]
    records: list[Record]
    during: list[Evaluation]
    final: Evaluation | None
    random_player: Evaluation | None
    why: list[str]
    """What `tokendream diagnose` said in words, why the agent is not better; empty where it was not asked."""

    @property
    def evaluations(self) -> list[Evaluation]:
        """Those of the agent, in order."""
        return self.during + ([self.final] if self.final else [])

    @property
    def signs_alone(self) -> bool:
        """Whether training games pay rewards' signs alone, so that what they return is no score."""
        return self.config.env.game is not None and self.config.env.atari.sign_rewards

    @property
    def reference(self) -> Reference | None:
        """Published scores of the game, if it is one of Atari 100K."""
        name = atari100k.benchmark_name(self.config.env.game)
        return atari100k.ATARI_100K[name] if name else None

    @property
    def returns(self) -> tuple[list[float], list[float]]:
        """Env steps and scores of training games; none where they have none."""
        return ([], []) if self.signs_alone else self.series("collect/return")

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Env steps and values of a figure, where it was recorded."""
        points = [(float(r["env_steps"]), float(r[name])) for r in self.records if r.get(name) is not None]
        return [p[0] for p in points], [p[1] for p in points]

    @staticmethod
    def read(path: Path) -> RunFolder:
        """Raises ConfigError for a folder that is no run; half-finished runs are welcome."""
        config = read_config(path)
        evaluations = path / "evaluation"
        records = read_metrics(path / "metrics.jsonl")
        during = [_evaluation(p) for p in sorted(evaluations.glob("epoch-*.json"))]
        return RunFolder(
            path,
            config,
            read_facts(path),
            records,
            [e for e in during if e is not None],
            _evaluation(path / FINAL) or _evaluation(path / "final.json"),
            _evaluation(evaluations / "random.json") or _evaluation(path / "random.json"),
            _why(path, records[-1]["epoch"] if records else None),
        )


def diagnosis(run_dir: Path) -> dict[str, Any]:
    """What `tokendream diagnose` wrote of a run, which may have gone on since; empty where it was not asked."""
    path = run_dir / "diagnosis.json"
    return files.parse(path, files.read(path)) if path.is_file() else {}


def _why(run_dir: Path, epoch: int | float | None) -> list[str]:
    """The sentences of a diagnosis, and of which epoch it is where the run has gone on to `epoch`; those of older
    versions have none."""
    found = diagnosis(run_dir)
    said, then = found.get("why"), found.get("epoch")
    if not (isinstance(said, list) and said):
        return []
    stale = [f"Of the agent after epoch {then}:"] if isinstance(then, int) and epoch not in (None, then) else []
    return stale + [str(line)[:600] for line in said[:8]]


def _evaluation(path: Path) -> Evaluation | None:
    if not path.is_file():
        return None
    try:
        return Evaluation.from_json(files.read_text(path))
    except EvaluationError as error:
        raise EvaluationError(f"{path}: {error}") from None
