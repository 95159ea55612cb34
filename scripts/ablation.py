"""What each ingredient of REM's successors gives alone: the runs of docs/ablations.md, and the pages.

    python scripts/ablation.py run --jobs 2         every run that is not finished; the same command goes on
    python scripts/ablation.py run --seeds 3        the first three seeds alone
    python scripts/ablation.py run --rows rem all   these rows first
    python scripts/ablation.py run --problems CartPole-v1
    python scripts/ablation.py write                finished runs into results/ablation, docs/ablations.md and
                                                    the effects of docs/beyond.md

Problems, seeds, budget and rows stand in ablation_agents.py and were committed before any run.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ablation_agents import ALL, EPISODES, GPU, NONE, PROBLEMS

from tokendream.errors import TokendreamError, nearest
from tokendream.evaluation.evaluation import Evaluation
from tokendream.reports.charts import figure_svg
from tokendream.runfolder.metrics import read_metrics
from tokendream.sweep.local import LocalEngine
from tokendream.sweep.plan import Trial
from tokendream.sweep.progress import dashboard_for
from tokendream.sweep.resources import Resources
from tokendream.sweep.run import sweep

ROOT = Path(__file__).parents[1]
SWEEP = ROOT / "sweeps" / "ablation"
KEPT = ROOT / "results" / "ablation"
PAGE = ROOT / "docs" / "ablations.md"
BEYOND = ROOT / "docs" / "beyond.md"
PLOT = "ablations.svg"

LEAST = 3
"""Seeds from which on an effect is shown; whole seeds come one after the other."""

MOST = max(problem.seeds for problem in PROBLEMS.values())

RESAMPLES = 10_000

Effect = tuple[float, float, float]
"""A difference of means, and the ends of its interval."""

HEAD_COLUMNS = "| ingredient | alone, on REM | | cut out of all | | s an epoch, alone |"


def slug(text: str) -> str:
    """As a folder's name has it."""
    return re.sub(r"[^\w.]+", "-", text.replace("+ ", "with ").replace("- ", "without ")).strip("-")


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


def run_name(problem: str, row: str, seed: int) -> str:
    """Name of a run's folder, and of its file in results/ablation."""
    return f"{slug(problem)}-{slug(row)}-seed{seed}"


def keep(folder: Path, kept: Path) -> None:
    """Copy the evaluation of every finished run, with the seconds that an epoch took."""
    for trial in trials(folder):
        if trial.finished:
            final = Evaluation.from_json((trial.run_dir / "evaluation" / "final.json").read_text())
            last = read_metrics(trial.run_dir / "metrics.jsonl")[-1]
            protocol = {**final.protocol, "seconds_an_epoch": round(last["seconds"] / last["epoch"], 2)}
            dataclasses.replace(final, protocol=protocol).write(kept / f"{trial.name}.json")


def scores(kept: Path, problem: str, row: str) -> tuple[list[float], list[float]]:
    """The mean score and the seconds an epoch of each run that is finished."""
    paths = [kept / f"{run_name(problem, row, seed)}.json" for seed in range(PROBLEMS[problem].seeds)]
    found = [Evaluation.from_json(path.read_text()) for path in paths if path.is_file()]
    return [e.mean for e in found], [float(e.protocol["seconds_an_epoch"] or 0) for e in found]


def effect(with_it: Sequence[float], without: Sequence[float]) -> Effect:
    """Difference of the means over seeds, and its 95% percentile bootstrap interval: the seeds of each are
    drawn again by themselves."""
    a, b, rng = np.array(with_it), np.array(without), np.random.default_rng(0)
    drawn = [x[rng.integers(len(x), size=(RESAMPLES, len(x)))].mean(-1) for x in (a, b)]
    low, high = np.quantile(drawn[0] - drawn[1], (0.025, 0.975))
    return float(a.mean() - b.mean()), float(low), float(high)


def verdict(found: Effect) -> str:
    """An effect in words."""
    _, low, high = found
    return "no effect seen" if low <= 0 <= high else "better with it" if low > 0 else "worse with it"


def effects(kept: Path, problem: str) -> dict[str, list[Effect | None]]:
    """Of each ingredient alone, and of what is lost where it alone is cut; None where runs are missing."""
    rows = PROBLEMS[problem].rows
    pairs = {row[2:]: [(row, NONE), (ALL, f"- {row[2:]}")] for row in rows if row.startswith("+ ")}
    if "+ attention" in rows:
        pairs["attention"] = [("+ attention", NONE), ("all, attention", ALL)]
    found: dict[str, list[Effect | None]] = {}
    for name, sides in pairs.items():
        both = [[scores(kept, problem, row)[0] for row in side] for side in sides]
        found[name] = [effect(a, b) if min(len(a), len(b)) >= LEAST else None for a, b in both]
    return found


def table(kept: Path, problem: str) -> str:
    """One problem's rows."""
    lines = [f"## {problem}", "", *(_level(kept, problem, row) for row in (NONE, ALL)), "", HEAD_COLUMNS,
             "|" + "---|" * 6]  # fmt: skip
    rows = PROBLEMS[problem].rows
    for name, (alone, cut) in effects(kept, problem).items():
        cells = [*_cells(alone), *(_cells(cut) if f"- {name}" in rows or "all, attention" in rows else ("", ""))]
        seconds = scores(kept, problem, f"+ {name}")[1]
        lines.append(f"| {name} | {' | '.join(cells)} | {f'{np.mean(seconds):.1f}' if seconds else ''} |")
    lines += [f"| {name} | {why} | | | | |" for name, why in PROBLEMS[problem].absent.items()]
    return "\n".join(lines)


def _level(kept: Path, problem: str, row: str) -> str:
    means, seconds = scores(kept, problem, row)
    if not means:
        return f"- {row}: not run yet"
    return f"- {row}: {', '.join(f'{m:.1f}' for m in means)} (seeds), {np.mean(seconds):.1f} s an epoch"


def _cells(found: Effect | None) -> tuple[str, str]:
    if found is None:
        return "not run yet", ""
    mean, low, high = found
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})", verdict(found)


def _any(kept: Path) -> bool:
    """Whether any effect is known."""
    return any(side for problem in PROBLEMS for sides in effects(kept, problem).values() for side in sides)


def draw(kept: Path) -> None:
    """The plot, if there is anything to draw."""
    if not _any(kept):
        return
    found = {problem: effects(kept, problem) for problem in PROBLEMS}

    def panels(figure: Any) -> None:
        (across,) = figure.subplots(1, len(found), squeeze=False)
        for axes, (problem, named) in zip(across, found.items(), strict=True):
            for side, (what, shift) in enumerate((("alone, on REM", 0.15), ("cut out of all", -0.15))):
                shown = [(i + shift, *sides[side]) for i, sides in enumerate(named.values()) if sides[side]]  # type: ignore[misc]
                if shown:
                    y, mean, low, high = map(np.array, zip(*shown, strict=True))
                    axes.errorbar(mean, y, xerr=(mean - low, high - mean), fmt="o", markersize=4, label=what)
            axes.axvline(0, color="0.4", linewidth=0.9)
            axes.set_yticks(range(len(named)), list(named))
            axes.set_title(problem)
            axes.set_xlabel("what it adds to the score, 95% over seeds")
            if axes.get_legend_handles_labels()[0]:
                axes.legend(frameon=False)

    (PAGE.parent / PLOT).write_text(figure_svg(panels, 5.0 * len(found), 5.4))


def number(seeds: int = MOST) -> int:
    """Of all runs, with at most so many seeds."""
    return sum(len(problem.rows) * min(problem.seeds, seeds) for problem in PROBLEMS.values())


def page(kept: Path) -> str:
    """docs/ablations.md."""
    agents = [(name, row) for name, problem in PROBLEMS.items() for row in problem.rows]
    runs = number()
    done = sum(len(scores(kept, *agent)[0]) for agent in agents)
    state = "**Not run yet.**" if not done else f"**{done} of {runs} runs are finished.**" if done < runs else ""
    least, most = (sum(problem.hours(seeds) for problem in PROBLEMS.values()) for seeds in (LEAST, MOST))
    introduction = INTRODUCTION.format(runs=runs, games=EPISODES, first=number(LEAST), seeds=LEAST,
                                       least=least, most=most, budget="\n".join(map(_budget, PROBLEMS)))  # fmt: skip
    plot = f"![Effects with their intervals]({PLOT})" if _any(kept) else ""
    tables = [table(kept, problem) for problem in PROBLEMS]
    return "\n\n".join(filter(None, [introduction, state, plot, *tables])) + "\n"


def _budget(name: str) -> str:
    problem = PROBLEMS[name]
    c, training = problem.config, problem.config.training
    return (f"| {name} | {len(problem.rows)} | {problem.seeds} | {c.epochs} x {c.collect.steps} "
            f"| {training.world_model.updates} | {training.actor_critic.updates} | {problem.minutes:g} "
            f"| {problem.hours(LEAST):.1f} |")  # fmt: skip


def beyond(text: str, kept: Path) -> str:
    """docs/beyond.md with the columns "effect alone" and "cost" as the runs have them; a cost's words stay."""
    before, marker, table = text.partition("<!-- effects -->")
    table, end, after = table.partition("<!-- /effects -->")
    lines = []
    for line in table.split("\n"):
        cells = line.split(" | ")
        if len(cells) == 6 and ":" in cells[0]:
            name, words = cells[0][2:].partition(":")[0], cells[5][:-2].partition("; epoch x")[0]
            line = " | ".join([*cells[:4], _alone(kept, name), words + _epochs(kept, name)]) + " |"
        lines.append(line)
    return before + marker + "\n".join(lines) + end + after


def _alone(kept: Path, name: str) -> str:
    """What an ingredient adds to REM's score on each problem where that is known."""
    known = {problem: found[name][0] for problem in PROBLEMS if name in (found := effects(kept, problem))}
    told = "; ".join(f"{problem} {_cells(alone)[0]}" for problem, alone in known.items() if alone)
    return told or ("not run yet" if known else GPU)


def _epochs(kept: Path, name: str) -> str:
    """How much longer than REM's an epoch is with it."""
    times = [[scores(kept, problem, row)[1] for row in (f"+ {name}", NONE)] for problem in PROBLEMS]
    found = [f"{np.mean(a) / np.mean(b):.2f}" for a, b in times if a and b]
    return f"; epoch x {', '.join(found)}" if found else ""


INTRODUCTION = """# What each ingredient gives alone

REM's successors add ingredients by the dozen and publish them together ([beyond.md](beyond.md)). Here each is added
alone to REM, and each alone is cut out of all of them, on a problem of features and one of maps; on images REM, all of
them, and three alone. REM is the paper's M and C at the sizes and with the schedule of presets `control`, `grid` and
`toy`; its advantages are centred and not scaled. A score is the mean of {games} games. Problems, seeds, budget and rows
stood in `scripts/ablation_agents.py` before any run.

| problem | agents | seeds | epochs x decisions | updates of M | dream batches | minutes a run | hours, {seeds} seeds |
|---|---|---|---|---|---|---|---|
{budget}

**Expected core-hours: {least:.0f} for the {first} runs of the first {seeds} seeds, {most:.0f} for all {runs}.**
An estimate: a row takes the mean of `rem` and `all`, evaluation included: on CartPole one run each, on one core with
AMX, before C's LSTM had a gradient of its own; elsewhere a few updates in float32 on one busy core with AVX2 alone.
Seeds come one after the other, so that the command may be cut anywhere and the same goes on; effects are shown from
{seeds} seeds on.

```sh
python scripts/ablation.py run --jobs 2 --seeds {seeds} && python scripts/ablation.py write
```

An effect is a difference of means over seeds, with a 95% bootstrap interval from drawing the seeds of both agents
again; where that covers zero, none was seen, which is not the same as none. Attention stands in the place of RetNet and
its windows; its second effect is that on all of them, with which it is not counted."""


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
        engine = LocalEngine(SWEEP, Resources(jobs=options.jobs))
        return sweep(there, SWEEP, engine, dashboard_for(there), again=f"python scripts/ablation.py {' '.join(argv)}")
    except TokendreamError as error:
        print(f"ablation: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
