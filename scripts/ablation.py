"""What each ingredient of REM's successors gives alone: the runs of docs/ablations.md, and the page.

    python scripts/ablation.py run --jobs 2         every run that is not finished; the same command goes on
    python scripts/ablation.py run --rows rem all   these rows first
    python scripts/ablation.py write                finished runs into results/ablation, and docs/ablations.md

Problems, seeds, budget and rows stand below and were committed before any run. A row is an agent: REM as it is, at the
sizes and with the schedule of a small preset; that and one ingredient; that and all of them; all but one.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokendream.config.config import Config
from tokendream.config.presets import CONTROL, GRID, vary
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
PLOT = "ablations.svg"

SEEDS = (0, 1, 2, 3, 4)
LEAST = 3
"""Seeds from which on an effect is shown; whole seeds come one after the other."""

EPOCHS, STEPS, OF_M, OF_C = 20, 1000, 60, 15
"""Epochs, and of each: decisions, updates of M, batches of dreams."""

EPISODES = 20
RESAMPLES = 10_000

Change = Callable[[Config], Config]


def _part(name: str, **changes: Any) -> Change:
    return lambda config: vary(config, name, **changes)


def _both(first: Change, second: Change) -> Change:
    return lambda config: second(first(config))


INGREDIENTS: Mapping[str, Change] = {
    "windows": _part("world_model", shortest_window=4.0, longest_window=16.0),
    "grid positions": _part("world_model", positions="grid"),
    "slot embedding": _part("world_model", slot_embedding=True),
    "reward head": _part("world_model", reward_head="symlog"),
    "value head": _part("actor_critic", value_head="symlog"),
    "late outcome": _part("world_model", outcome_from="prediction"),
    "replay by loss": _part("world_model", by_loss=0.3),
    "copy or sample": _part("world_model", copy_or_sample=True),
    "events": _part("world_model", events=True),
    "curiosity": _both(_part("world_model", ensemble=4), _part("dream", curiosity=1.0)),
    "quantiles": _part("dream", scale_advantage=False, scale_by_quantiles=True),
    "separate critic": _part("actor_critic", separate=True),
    "norms": _both(_part("world_model", head="norm"), _part("actor_critic", trunk="norm")),
    "local prediction": _part("world_model", local_prediction=True),
}
"""Each as its paper has it (docs/beyond.md); local prediction is ours."""

ATTENTION = _part("world_model", backbone="post-norm", shortest_window=0.0, longest_window=0.0)
"""Instead of RetNet and its windows, so that it is never beside the latter."""


def _frozen(config: Config) -> Config:
    """V takes no new codes after a tenth of the epochs."""
    V = dataclasses.replace(config.training.tokenizer, last_epoch=EPOCHS // 10)
    return vary(config, "training", tokenizer=V)


def rem(config: Config) -> Config:
    """A small preset without what the paper does not have in M and C; sizes, schedule and objective stay."""
    config = vary(config, "world_model", local_prediction=False, outcome_from="action", head="relu",
                  reward_head="sign", slot_embedding=False, dropout=0.0)  # fmt: skip
    config = vary(config, "actor_critic", separate=False, trunk="silu", value_head="scalar")
    config = vary(config, "evaluation", episodes=EPISODES, every=0)
    config = vary(config, "collect", steps=STEPS, last_epoch=EPOCHS)
    training = config.training
    config = vary(config, "training", world_model=dataclasses.replace(training.world_model, updates=OF_M),
                  actor_critic=dataclasses.replace(training.actor_critic, updates=OF_C))  # fmt: skip
    return dataclasses.replace(config, epochs=EPOCHS, device="cpu")


PROBLEMS: Mapping[str, tuple[Config, Mapping[str, Change]]] = {
    "dmc:cartpole-swingup": (
        rem(CONTROL),
        {k: v for k, v in INGREDIENTS.items() if k not in ("grid positions", "copy or sample")},
    ),
    "minatar:Breakout": (rem(GRID), {**INGREDIENTS, "frozen V": _frozen}),
}
"""What is played, from which config, and which ingredients exist there. Features have no places that tokens could move
between, and a V that is not fitted, so there is nothing to freeze."""

NONE, ALL, HEAD_COLUMNS = "rem", "all", "| ingredient | alone, on REM | | cut out of all | | s an epoch, alone |"


def rows(ingredients: Mapping[str, Change]) -> dict[str, Change]:
    """Every agent of a problem by its name."""

    def together(left_out: str = "") -> Change:
        def change(config: Config) -> Config:
            for name, ingredient in ingredients.items():
                config = config if name == left_out else ingredient(config)
            return config

        return change

    found: dict[str, Change] = {NONE: lambda config: config, ALL: together()}
    found |= {f"+ {name}": change for name, change in ingredients.items()}
    found["+ attention"] = ATTENTION
    found |= {f"- {name}": together(name) for name in ingredients}
    found["all, attention"] = _both(together(), ATTENTION)
    return found


def slug(text: str) -> str:
    """As a folder's name has it."""
    return re.sub(r"[^\w.]+", "-", text.replace("+ ", "with ").replace("- ", "without ")).strip("-")


def trials(folder: Path, wanted: Sequence[str] = ()) -> list[Trial]:
    """Every run, all rows of a seed before the next seed's, so that a sweep that is cut has whole seeds. Raises
    TokendreamError for a row that there is not."""
    known = {row: None for _, ingredients in PROBLEMS.values() for row in rows(ingredients)}
    for row in wanted:
        if row not in known:
            raise TokendreamError(f"no row is called {row!r}; nearest: {nearest(row, known)}")
    agents = {
        (problem, row): change(config)
        for problem, (config, ingredients) in PROBLEMS.items()
        for row, change in rows(ingredients).items()
        if not wanted or row in wanted
    }
    runs = folder.absolute() / "runs"
    return [
        Trial(dataclasses.replace(config, seed=seed), runs / run_name(problem, row, seed))
        for seed in SEEDS
        for (problem, row), config in agents.items()
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
    paths = [kept / f"{run_name(problem, row, seed)}.json" for seed in SEEDS]
    found = [Evaluation.from_json(path.read_text()) for path in paths if path.is_file()]
    return [e.mean for e in found], [float(e.protocol["seconds_an_epoch"] or 0) for e in found]


def effect(with_it: Sequence[float], without: Sequence[float]) -> tuple[float, float, float]:
    """Difference of the means over seeds, and its 95% percentile bootstrap interval: the seeds of each are
    drawn again by themselves."""
    a, b, rng = np.array(with_it), np.array(without), np.random.default_rng(0)
    drawn = [x[rng.integers(len(x), size=(RESAMPLES, len(x)))].mean(-1) for x in (a, b)]
    low, high = np.quantile(drawn[0] - drawn[1], (0.025, 0.975))
    return float(a.mean() - b.mean()), float(low), float(high)


def verdict(found: tuple[float, float, float]) -> str:
    """An effect in words."""
    _, low, high = found
    return "no effect seen" if low <= 0 <= high else "better with it" if low > 0 else "worse with it"


def effects(kept: Path, problem: str) -> dict[str, list[tuple[float, float, float] | None]]:
    """Of each ingredient alone, and of what is lost where it alone is cut; None where runs are missing."""
    ingredients = PROBLEMS[problem][1]
    pairs = {name: [(f"+ {name}", NONE), (ALL, f"- {name}")] for name in ingredients}
    pairs["attention"] = [("+ attention", NONE), ("all, attention", ALL)]
    found: dict[str, list[tuple[float, float, float] | None]] = {}
    for name, sides in pairs.items():
        both = [[scores(kept, problem, row)[0] for row in side] for side in sides]
        found[name] = [effect(a, b) if min(len(a), len(b)) >= LEAST else None for a, b in both]
    return found


def table(kept: Path, problem: str) -> str:
    """One problem's rows."""
    lines = [f"## {problem}", "", *(_level(kept, problem, row) for row in (NONE, ALL)), "", HEAD_COLUMNS,
             "|" + "---|" * 6]  # fmt: skip
    for name, sides in effects(kept, problem).items():
        cells = [cell for side in sides for cell in _cells(side)]
        seconds = scores(kept, problem, f"+ {name}")[1]
        lines.append(f"| {name} | {' | '.join(cells)} | {np.mean(seconds):.1f} |" if seconds else
                     f"| {name} | {' | '.join(cells)} | |")  # fmt: skip
    return "\n".join(lines)


def _level(kept: Path, problem: str, row: str) -> str:
    means, seconds = scores(kept, problem, row)
    if not means:
        return f"- {row}: not run yet"
    return f"- {row}: {', '.join(f'{m:.1f}' for m in means)} (seeds), {np.mean(seconds):.1f} s an epoch"


def _cells(found: tuple[float, float, float] | None) -> tuple[str, str]:
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


def page(kept: Path) -> str:
    """docs/ablations.md."""
    agents = [(problem, row) for problem, (_, ingredients) in PROBLEMS.items() for row in rows(ingredients)]
    runs, done = len(agents) * len(SEEDS), sum(len(scores(kept, *agent)[0]) for agent in agents)
    state = "**Not run yet.**" if not done else f"**{done} of {runs} runs are finished.**" if done < runs else ""
    return "\n\n".join(filter(None, [INTRODUCTION.format(runs=runs, epochs=EPOCHS, seeds=len(SEEDS), games=EPISODES,
                                                         steps=STEPS, m=OF_M, c=OF_C),
                                     state, f"![Effects with their intervals]({PLOT})" if _any(kept) else "",
                                     *(table(kept, problem) for problem in PROBLEMS)])) + "\n"  # fmt: skip


INTRODUCTION = """# What each ingredient gives alone

REM's successors add ingredients by the dozen and publish them together ([beyond.md](beyond.md)). Here each is added
alone to REM, and each alone is cut out of all of them: {runs} runs, {seeds} seeds an agent, on one problem of features
and one of maps. REM is the paper's M and C at the sizes and with the objective of presets `control` and `grid`:
{epochs} epochs of {steps} decisions, {m} updates of M and {c} batches of dreams; a score is the mean of {games} games.
Problems, seeds, budget and rows stood in `scripts/ablation.py` before any run.

```sh
python scripts/ablation.py run --jobs 2 && python scripts/ablation.py write
```

An effect is a difference of means over seeds, with a 95% bootstrap interval from drawing the seeds of both agents
again; where that covers zero, none was seen, which is not the same as none. Attention stands in the place of RetNet and
its windows; its second effect is that on all of them, with which it is not counted. FSQ, LPIPS and a V that is trained
do not exist here: what they give on pictures, and what ten layers give, needs a GPU and was not measured."""


def main(argv: list[str]) -> int:
    """Run one of the commands. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="ablation.py")
    parser.add_argument("command", choices=("run", "write"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--rows", nargs="+", default=())
    options = parser.parse_args(argv)
    try:
        if options.command == "write":
            keep(SWEEP, KEPT)
            draw(KEPT)
            PAGE.write_text(page(KEPT))
            return 0
        there = trials(SWEEP, options.rows)
        engine = LocalEngine(SWEEP, Resources(jobs=options.jobs))
        return sweep(there, SWEEP, engine, dashboard_for(there), again=f"python scripts/ablation.py {' '.join(argv)}")
    except TokendreamError as error:
        print(f"ablation: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
