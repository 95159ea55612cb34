"""The pages of scripts/ablation.py: docs/ablations.md, its plot, and the effects of docs/beyond.md."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ablation_agents import ALL, EPISODES, GPU, NONE, NOWHERE, PROBLEMS
from scipy import stats

from tokendream.config.config import Config, leaves
from tokendream.config.presets import PRESETS
from tokendream.evaluation.evaluation import Evaluation
from tokendream.reports.charts import figure_svg
from tokendream.sweep.plan import fields_that_differ

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "results" / "ablation"
PAGE = ROOT / "docs" / "ablations.md"
BEYOND = ROOT / "docs" / "beyond.md"

PLOT = "ablations.svg"

LEAST = 3
"""Seeds from which on an effect is shown; whole seeds come one after the other."""

MOST = max(problem.seeds for problem in PROBLEMS.values())

Effect = tuple[float, float, float]
"""A difference of means, and the ends of its interval."""

Effects = Mapping[str, Sequence[Effect | None]]
"""By ingredient: alone, and what is lost where it alone is cut; None where runs are missing."""

MEASURES = {"score": "score after learning", "training_return": "return while learning"}
"""Fields of a run, and what the page calls them."""

SIDES = ("alone, on REM", "cut out of all")


def slug(text: str) -> str:
    """As a folder's name has it."""
    return re.sub(r"[^\w.]+", "-", text.replace("+ ", "with ").replace("- ", "without ")).strip("-")


def run_name(problem: str, row: str, seed: int) -> str:
    """Name of a run's folder, and of its file in results/ablation."""
    return f"{slug(problem)}-{slug(row)}-seed{seed}"


@dataclass(frozen=True)
class Run:
    """What is told of a run that is finished."""

    seed: int
    score: float
    training_return: float
    seconds_an_epoch: float
    """Of the processor."""
    core_hours: float
    """0 where that was not kept."""


def runs(kept: Path, problem: str, row: str) -> list[Run]:
    """The finished runs of an agent, seed by seed."""
    paths = {seed: kept / f"{run_name(problem, row, seed)}.json" for seed in range(PROBLEMS[problem].seeds)}
    found = {seed: Evaluation.from_json(path.read_text()) for seed, path in paths.items() if path.is_file()}
    names = ("training_return", "seconds_an_epoch", "core_hours")
    return [Run(seed, e.mean, *(float(e.protocol.get(name) or 0) for name in names)) for seed, e in found.items()]


def scores(kept: Path, problem: str, row: str, measure: str = "score") -> list[float]:
    """One measure of an agent's finished runs."""
    return [getattr(run, measure) for run in runs(kept, problem, row)]


def cost(kept: Path, problem: str, row: str) -> str:
    """How much longer than REM's an agent's epoch is, a mean over the seeds that both have; "" where none is."""
    of_rem = {run.seed: run.seconds_an_epoch for run in runs(kept, problem, NONE)}
    ratios = [run.seconds_an_epoch / of_rem[run.seed] for run in runs(kept, problem, row) if run.seed in of_rem]
    return f"{np.mean(ratios):.2f}" if ratios else ""


def effect(with_it: Sequence[float], without: Sequence[float]) -> Effect:
    """Difference of the means over seeds, and its 95% interval by Welch's t: a bootstrap of three to five seeds is too
    narrow. Of the same scores, seed by seed, it is 0 and has no width."""
    a, b = np.array(with_it), np.array(without)
    mean = float(a.mean() - b.mean())
    parts = np.array([x.var(ddof=1) / len(x) for x in (a, b)])
    if not parts.any() or np.array_equal(a, b):
        return mean, mean, mean
    freedom = parts.sum() ** 2 / sum(part**2 / (len(x) - 1) for part, x in zip(parts, (a, b), strict=True))
    half = float(stats.t.ppf(0.975, freedom) * np.sqrt(parts.sum()))
    return mean, mean - half, mean + half


def verdict(found: Effect) -> str:
    """An effect in words."""
    _, low, high = found
    if low == high == 0:
        return "the same scores"
    return "no effect seen" if low <= 0 <= high else "better with it" if low > 0 else "worse with it"


def effects(kept: Path, problem: str, measure: str = "score") -> Effects:
    """Of every ingredient on one problem, by one measure."""
    rows = PROBLEMS[problem].rows
    pairs = {row[2:]: [(row, NONE), (ALL, f"- {row[2:]}")] for row in rows if row.startswith("+ ")}
    pairs |= {name: [(f"+ {name}", NONE), (f"all, {name}", ALL)] for name in PROBLEMS[problem].beside}
    found: dict[str, list[Effect | None]] = {}
    for name, sides in pairs.items():
        both = [[scores(kept, problem, row, measure) for row in side] for side in sides]
        found[name] = [effect(a, b) if min(len(a), len(b)) >= LEAST else None for a, b in both]
    return found


def helpful(kept: Path) -> list[str]:
    """Ingredients that, alone on REM, were better while learning on one problem and worse on none."""
    verdicts: dict[str, set[str]] = {}
    for problem in PROBLEMS:
        for name, (alone, _) in effects(kept, problem, "training_return").items():
            verdicts.setdefault(name, set()).add("" if alone is None else verdict(alone))
    return [name for name, found in verdicts.items() if "better with it" in found and "worse with it" not in found]


def in_best() -> list[str]:
    """Ingredients of preset `best`."""
    best, rem = leaves(asdict(PRESETS["best"])), Config()
    ingredients = {name: change for problem in PROBLEMS.values() for name, change in problem.ingredients.items()}
    return [name for name, change in ingredients.items()
            if all(best[f] == new for f, _, new in fields_that_differ(rem, change(rem)))]  # fmt: skip


def of_best(kept: Path) -> str:
    """What preset `best` has, and which effects of it were seen."""
    names = in_best()
    told = [f"**Preset `best`** is `rem` with {', '.join(names)}: better while learning on one problem and worse on "
            f"none. Effects of these, alone on REM: {_told(kept, names)}."]  # fmt: skip
    if set(chosen := helpful(kept)) != set(names):
        told.append(f"By these runs it would be: {', '.join(chosen) or 'none'}.")
    return _filled(" ".join([*told, "There is no complete run of it on a game."]))


def _told(kept: Path, names: Sequence[str]) -> str:
    """The effects of some ingredients, alone on REM, in words."""
    told = []
    for measure, what in MEASURES.items():
        seen: dict[tuple[str, str], list[str]] = {}
        for problem in PROBLEMS:
            found = effects(kept, problem, measure)
            for name in names:
                one = found[name][0] if name in found else None
                if one and (said := verdict(one)) in ("better with it", "worse with it"):
                    n = len(runs(kept, problem, f"+ {name}"))
                    seen.setdefault((said.split()[0], f"{problem} ({n} seeds)"), []).append(name)
        parts = [f"{word} on {where} with {', '.join(those)}" for (word, where), those in seen.items()]
        told.append(f"{what}, {'; '.join(parts) or 'none seen on any problem'}")
    return "; ".join(told)


def chance(kept: Path) -> str:
    """How many intervals exclude zero, and how many would by chance."""
    found = [effects(kept, problem, measure) for problem in PROBLEMS for measure in MEASURES]
    every = [one for of_each in found for sides in of_each.values() for one in sides if one and one[1] < one[2]]
    seen = sum(verdict(one) != "no effect seen" for one in every)
    return _filled(f"Of the {len(every)} intervals below, {seen} exclude zero; about {len(every) / 20:.0f} would if no "
                   "ingredient had any effect.")  # fmt: skip


def _filled(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def tables(kept: Path, problem: str) -> str:
    """One problem's rows, measure by measure."""
    absent = [name for name, why in PROBLEMS[problem].absent.items() if why == NOWHERE]
    told = [f"Does not exist here: {', '.join(absent)}."] if absent else []
    begun = any(runs(kept, problem, row) for row in PROBLEMS[problem].rows)
    found = [_table(kept, problem, measure) for measure in MEASURES] if begun else ["Not run yet."]
    return "\n\n".join([f"## {problem}", *told, *found])


def _table(kept: Path, problem: str, measure: str) -> str:
    levels = "; ".join(_level(kept, problem, row, measure) for row in (NONE, ALL))
    found = effects(kept, problem, measure)
    lines = [f"**{MEASURES[measure].capitalize()}**. {levels}.{_seen(found)}", ""]
    lines += [f"| ingredient | {SIDES[0]} | | {SIDES[1]} | | x REM's epoch, alone |", "|" + "---|" * 6]
    for name, (alone, cut) in found.items():
        cells = [*_cells(alone), *(("", "") if PROBLEMS[problem].alone else _cells(cut))]
        lines.append(f"| {name} | {' | '.join(cells)} | {cost(kept, problem, f'+ {name}')} |")
    absent = {name: why for name, why in PROBLEMS[problem].absent.items() if why != NOWHERE}
    lines += [f"| {name} | {why} | | | | |" for name, why in absent.items()]
    return "\n".join(lines)


def _seen(found: Effects) -> str:
    """The ingredients whose interval leaves zero out, in words."""
    told = []
    for side, what in enumerate(SIDES):
        for word in ("better with it", "worse with it"):
            names = [name for name, sides in found.items() if (one := sides[side]) and verdict(one) == word]
            told += [f" {word.capitalize()}, {what}: {', '.join(names)}."] if names else []
    return "".join(told)


def _level(kept: Path, problem: str, row: str, measure: str) -> str:
    found = ", ".join(f"{x:.3g}" for x in scores(kept, problem, row, measure))
    seconds = scores(kept, problem, row, "seconds_an_epoch")
    return f"{row}: {found} (seeds), {np.mean(seconds):.1f} s an epoch" if found else f"{row}: not run yet"


def _cells(found: Effect | None) -> tuple[str, str]:
    if found is None:
        return "fewer than 3 seeds", ""
    mean, low, high = found
    return f"{mean:+.3g} ({low:+.3g} to {high:+.3g})", verdict(found)


def _any(kept: Path) -> bool:
    """Whether any effect is known."""
    return any(side for problem in PROBLEMS for sides in effects(kept, problem).values() for side in sides)


def draw(kept: Path) -> None:
    """The plot, if there is anything to draw."""
    if not _any(kept):
        return

    def panels(figure: Any) -> None:
        grid = figure.subplots(len(MEASURES), len(PROBLEMS), squeeze=False)
        for across, measure in zip(grid, MEASURES, strict=True):
            for axes, problem in zip(across, PROBLEMS, strict=True):
                _panel(axes, effects(kept, problem, measure))
                axes.set_title(problem)
                axes.set_xlabel(f"what it adds to the {MEASURES[measure]}, 95% over seeds")

    (PAGE.parent / PLOT).write_text(figure_svg(panels, 5.0 * len(PROBLEMS), 5.2 * len(MEASURES)))


def _panel(axes: Any, found: Effects) -> None:
    for side, (what, shift) in enumerate(zip(SIDES, (0.15, -0.15), strict=True)):
        shown = [(i + shift, *one) for i, sides in enumerate(found.values()) if (one := sides[side])]
        if shown:
            y, mean, low, high = map(np.array, zip(*shown, strict=True))
            axes.errorbar(mean, y, xerr=(mean - low, high - mean), fmt="o", markersize=4, label=what)
            axes.legend(frameon=False)
    axes.axvline(0, color="0.4", linewidth=0.9)
    axes.set_yticks(range(len(found)), list(found))


def number(seeds: int = MOST) -> int:
    """Of all runs, with at most so many seeds."""
    return sum(len(problem.rows) * min(problem.seeds, seeds) for problem in PROBLEMS.values())


def page(kept: Path) -> str:
    """docs/ablations.md."""
    agents = [(name, row) for name, problem in PROBLEMS.items() for row in problem.rows]
    done = sum(len(runs(kept, *agent)) for agent in agents)
    known = [run.core_hours for agent in agents for run in runs(kept, *agent) if run.core_hours]
    spent = f" The {len(known)} of them that say so took {sum(known):.1f} core-hours of training."
    state = f"**{done} of {number()} runs are finished.**{spent if known else ''}" if done else "**Not run yet.**"
    least, most = (sum(problem.hours(seeds) for problem in PROBLEMS.values()) for seeds in (LEAST, MOST))
    introduction = INTRODUCTION.format(runs=number(), games=EPISODES, first=number(LEAST), seeds=LEAST,
                                       least=least, most=most, budget="\n".join(map(_budget, PROBLEMS)))  # fmt: skip
    plot = f"![Effects with their intervals]({PLOT})" if _any(kept) else ""
    of_each = [tables(kept, problem) for problem in PROBLEMS]
    found = [chance(kept), of_best(kept)] if _any(kept) else []
    return "\n\n".join(filter(None, [introduction, state, *found, plot, *of_each])) + "\n"


def _budget(name: str) -> str:
    problem = PROBLEMS[name]
    c, training = problem.config, problem.config.training
    return (f"| {name} | {len(problem.rows)} | {problem.seeds} | {c.epochs} x {c.collect.steps} "
            f"| {training.world_model.updates} | {training.actor_critic.updates} | {problem.minutes:g} "
            f"| {problem.hours(LEAST):.1f} |")  # fmt: skip


def beyond(text: str, kept: Path) -> str:
    """docs/beyond.md with the columns "effect alone" and "cost" as the runs have them; a cost's words stay."""
    known = {problem: [effects(kept, problem, measure) for measure in MEASURES] for problem in PROBLEMS}
    before, marker, table = text.partition("<!-- effects -->")
    table, end, after = table.partition("<!-- /effects -->")
    lines = []
    for line in table.split("\n"):
        cells = line.split(" | ")
        if len(cells) == 6 and ":" in cells[0]:
            name, words = cells[0][2:].partition(":")[0], cells[5][:-2].partition("; epoch x")[0]
            line = " | ".join([*cells[:4], _alone(known, name), words + _epochs(kept, name)]) + " |"
        lines.append(line)
    return before + marker + "\n".join(lines) + end + after


def _alone(known: Mapping[str, Sequence[Effects]], name: str) -> str:
    """What an ingredient adds to REM's score on each problem where that is known; what it adds to the return while
    learning where an effect of it was seen. `known`: the effects on each problem, measure by measure."""
    tried = {problem: [found[name][0] for found in of_each] for problem, of_each in known.items() if name in of_each[0]}
    told = []
    for problem, (score, learning) in tried.items():
        if score and learning:
            told.append(f"{problem} {_cells(score)[0]}")
            if verdict(learning) in ("better with it", "worse with it"):
                told[-1] += f", while learning **{_cells(learning)[0]}**"
    return "; ".join(told) or ("fewer than 3 seeds" if tried else GPU)


def _epochs(kept: Path, name: str) -> str:
    """How much longer than REM's an epoch is with it."""
    found = [x for problem in PROBLEMS if (x := cost(kept, problem, f"+ {name}"))]
    return f"; epoch x {', '.join(found)}" if found else ""


INTRODUCTION = """# What each ingredient gives alone

REM's successors add many ingredients and publish them together ([beyond.md](beyond.md)). Here each ingredient is
added alone to a baseline, `rem`, and removed alone from an agent that has all of them, `all`: on one problem with
features and one with maps. On images, only `rem`, `all` and four single additions were run. A score is the mean of
{games} games.

**The baseline is not REM as published.** Its world model and actor-critic are the paper's in structure, at the sizes
and with the schedule of presets `control` (CartPole), `grid` (MiniGrid) and `toy` (Catch). It also keeps those
presets' dream settings: each batch of dreams is used four times with PPO's clipped loss (in four minibatches on
CartPole and MiniGrid), steps after a predicted end are masked, advantages are centred (but not scaled), the entropy
weight is .01, and discount and horizon are those of the presets. On CartPole and MiniGrid nothing is trained in the
tokenizer (fixed values for features, a dictionary of seen cells for maps). An effect measured here may therefore
differ on REM as published.

Agents, seeds and budgets were committed in `scripts/ablation_agents.py` before the runs. The problems were chosen by
what the baseline learns on them. It learned nothing on `dmc:ball_in_cup-catch` and `minatar:Breakout`, which were
dropped. Trial runs of the baseline and of `all` with seeds 0 and 1 on CartPole and MiniGrid were seen before; they
are not among the runs below.

| problem | agents | seeds | epochs x decisions | model updates | dream batches | minutes a run | hours, {seeds} seeds |
|---|---|---|---|---|---|---|---|
{budget}

**Expected core-hours: {least:.0f} for the {first} runs of the first {seeds} seeds, {most:.0f} for all {runs}.** This
is an estimate: an agent is assumed to take the mean of `rem` and `all`, evaluation included, from one run of each on
one core with AMX (on CartPole before the LSTM had a gradient of its own). For Catch a few updates in float32 were
timed on one busy core with AVX2 only. Effects are shown from {seeds} seeds on. All agents of one seed run before the
next seed starts, so the command can be stopped at any time; the same command resumes it.

```sh
python scripts/ablation.py run --jobs 2 --seeds {seeds} && python scripts/ablation.py write
```

**How to read the tables.** An effect is a difference of means over seeds, with a 95% interval by Welch's t. If the
interval covers zero, no effect was seen, which does not mean that there is none. About one in twenty of these
intervals excludes zero by chance. *Return while learning* is the mean over epochs of the return of the games that
ended in each. It is less noisy than the score of the last policy; it was added to this page after the first six runs
on CartPole, all of seed 0. An epoch's cost is in seconds of processor time (on CartPole of wall-clock time), one
core for each run; other work on the machine makes the costs approximate. *The same scores*: equal seed by seed,
either because the ingredient does nothing there (differences in cost are then noise) or because both reach the
maximum (5 in Catch).

Attention replaces RetNet and its windows, and FSQ the VQ-VAE, so neither is part of `all`. The second effect of
attention is what it adds to `all`. LPIPS and ten layers need a GPU: no such run ends within minutes on these cores."""
