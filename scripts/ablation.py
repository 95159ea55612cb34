"""What each ingredient of REM's successors gives alone: the runs of docs/ablations.md, and the pages.

    python scripts/ablation.py run --jobs 2         every run that is not in results/ablation; the same command goes on
    python scripts/ablation.py run --seeds 3        the first three seeds alone
    python scripts/ablation.py run --rows rem all   these rows first
    python scripts/ablation.py run --problems CartPole-v1
    python scripts/ablation.py write                finished runs into results/ablation, docs/ablations.md and
                                                    the effects of docs/beyond.md

Problems, seeds, budget and rows stand in ablation_agents.py and were committed before the runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ablation_agents import PROBLEMS
from ablation_page import BEYOND, KEPT, MOST, PAGE, ROOT, beyond, draw, page, run_name

from tokendream.errors import TokendreamError, nearest
from tokendream.evaluation.evaluation import Evaluation
from tokendream.runfolder.folder import FINAL
from tokendream.runfolder.metrics import read_metrics
from tokendream.sweep.local import LocalEngine
from tokendream.sweep.plan import Trial
from tokendream.sweep.progress import dashboard_for
from tokendream.sweep.resources import Resources
from tokendream.sweep.run import sweep

SWEEP = ROOT / "sweeps" / "ablation"


def trials(folder: Path, wanted: Sequence[str] = (), seeds: int = MOST, problems: Sequence[str] = ()) -> list[Trial]:
    """Every run of the first `seeds`, all rows of a seed before the next seed's, so that a sweep that is cut has whole
    seeds. Raises TokendreamError for a row or a problem that there is not."""
    rows = {row: None for problem in PROBLEMS.values() for row in problem.rows}
    for what, named, known in (("row", wanted, rows), ("problem", problems, PROBLEMS)):
        for name in named:
            if name not in known:
                raise TokendreamError(f"no {what} is called {name!r}; nearest: {nearest(name, known)}")
    agents = {
        (name, row): change(problem.config)
        for name, problem in PROBLEMS.items()
        for row, change in problem.rows.items()
        if (not wanted or row in wanted) and (not problems or name in problems)
    }
    runs = folder.absolute() / "runs"
    return [
        Trial(dataclasses.replace(config, seed=seed), runs / run_name(problem, row, seed))
        for seed in range(min(seeds, MOST))
        for (problem, row), config in agents.items()
        if seed < PROBLEMS[problem].seeds
    ]


def keep(folder: Path, kept: Path) -> None:
    """Copy the evaluation of every finished run, what it cost, its commit and the return while it learned."""
    for trial in trials(folder):
        if trial.finished:
            final = Evaluation.from_json((trial.run_dir / FINAL).read_text())
            records = read_metrics(trial.run_dir / "metrics.jsonl")
            facts = json.loads((trial.run_dir / "facts.json").read_text())
            core_hours = float(facts["core_hours"])
            measured = {
                "seconds_an_epoch": round(3600 * core_hours / records[-1]["epoch"], 2),
                "training_return": round(training_return(records), 4),
                "core_hours": core_hours,
                "commit": facts["commit"],
            }
            dataclasses.replace(final, protocol={**final.protocol, **measured}).write(kept / f"{trial.name}.json")


def training_return(records: Sequence[Mapping[str, Any]]) -> float:
    """Mean over epochs of the mean return of the games that ended in each; where none did, the epoch before counts
    again. Epochs before the first game's end are left out."""
    known: list[float] = []
    for record in records:
        found = record.get("collect/return")
        known += [found] if found is not None else known[-1:]
    return sum(known) / len(known)


def main(argv: list[str]) -> int:
    """Run one of the commands. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="ablation.py")
    parser.add_argument("command", choices=("run", "write"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--rows", nargs="+", default=())
    parser.add_argument("--problems", nargs="+", default=())
    parser.add_argument("--seeds", type=int, default=MOST)
    options = parser.parse_args(argv)
    try:
        if options.command == "write":
            keep(SWEEP, KEPT)
            draw(KEPT)
            PAGE.write_text(page(KEPT))
            BEYOND.write_text(beyond(BEYOND.read_text(), KEPT))
            return 0
        there = trials(SWEEP, options.rows, options.seeds, options.problems)
        there = [trial for trial in there if not (KEPT / f"{trial.name}.json").is_file()]
        engine = LocalEngine(SWEEP, Resources(jobs=options.jobs))
        again = f"python scripts/ablation.py {' '.join(argv)}"
        return sweep(there, SWEEP, engine, dashboard_for(there), again=again, one_agent=False)
    except TokendreamError as error:
        print(f"ablation: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
