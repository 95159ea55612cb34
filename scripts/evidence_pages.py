"""What the runs in results/ prove, as tables and curves for README.md, docs/results.md and docs/evidence.md."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import re
import textwrap
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from tokendream.config import presets
from tokendream.config.config import Config, leaves
from tokendream.envs import atari100k
from tokendream.evaluation import published, scores
from tokendream.evaluation.evaluation import Evaluation
from tokendream.reports.results import RunFolder
from tokendream.runfolder.metrics import Record
from tokendream.sweep.plan import fields_that_differ

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"

CONTROLS = {
    "none": "nothing",
    "shuffled-actions": "the world model is trained on actions of other steps",
    "frozen": "the world model keeps its initial weights",
    "zero-rewards": "dreams give no rewards",
    "shuffled-rewards": "each dream gets another dream's rewards",
    "blind-policy": "the actor-critic sees no frame",
}
"""The links that can be cut, in the order of the table."""

TUNED_ON = {"CrazyClimber-cpu-seed0", "Boxing-cpu-seed101"}
"""Runs that helped to choose their preset: shown, and averaged with no other."""

SHARED = {
    *(f"{game}-cpu-seed{seed}" for game in ("Krull", "KungFuMaster") for seed in (21, 31, 32)),
    *(f"KungFuMaster-cpu-seed{seed}" for seed in (41, 42, 43, 51, 52)),
    *(f"KungFuMaster-cpu-45-epochs-seed{seed}" for seed in (41, 42, 43, 51, 52, 81, 82, 83, 101, 102, 103, 111)),
    *(f"Krull-cpu-seed{seed}" for seed in (91, 92)),
    *(f"{run}-seed101" for run in ("Boxing-cpu", "Breakout-cpu", "Krull-cpu", "KungFuMaster-night")),
    *(f"Catch-toy-seed{seed}" for seed in range(10)),
}
"""Runs that shared their machine with other work: their minutes say nothing, and are not shown."""

REM = published.agents()["REM"].runs
"""REM's published scores, by game."""

NAMED = 6
"""Fields in which a run's config differs from today's preset: so many are named, more are counted."""


@dataclass(frozen=True)
class Result:
    """One finished run, as it lies in results/."""

    path: Path
    config: Config
    final: Evaluation
    random_player: Evaluation
    curve: list[Record]
    facts: dict[str, str]

    @staticmethod
    def read(path: Path) -> Result:
        """Read a folder of results/. Raises ValueError or OSError where a file is missing or damaged."""
        found = RunFolder.read(path)
        if found.final is None or found.random_player is None:
            raise ValueError(f"{path} lacks final.json or random.json")
        return Result(path, found.config, found.final, found.random_player, found.records, found.facts)

    @property
    def minutes(self) -> float:
        """Of training; evaluation and reports are not in it."""
        return self.curve[-1]["seconds"] / 60

    @property
    def alone(self) -> bool:
        """Whether it had its machine, or a core of it, for itself."""
        return self.path.name not in SHARED

    @property
    def kind(self) -> str:
        """The kind of processor that it was made on. Facts that do not name it: what chose bf16 on a CPU had AMX."""
        if "kind" in self.facts:
            return self.facts["kind"]
        if not self.facts["device"].startswith("CPU"):
            return "GPU"
        found = "AMX" if ", bf16" in self.facts["device"] else self.facts["instructions"]
        return {"AVX512": "AVX-512"}.get(found, found)

    @property
    def kept_to_avx2(self) -> bool:
        """Whether its processor had more, and was forbidden to use it."""
        return self.kind in ("AMX", "AVX-512") and self.facts.get("instructions") == "AVX2"

    @property
    def processor(self) -> str:
        """Its kind, and what of it was used."""
        return f"{self.kind} kept to the instructions of AVX2" if self.kept_to_avx2 else self.kind

    @property
    def above_random(self) -> bool:
        """Whether the intervals of the agent's and of the random player's mean lie apart."""
        return self.final.interval[0] > self.random_player.interval[1]

    @property
    def control(self) -> str:
        """Which link was cut, by its name in CONTROLS."""
        return "frozen" if self.config.training.world_model.updates == 0 else self.config.control

    @property
    def of_ten(self) -> bool:
        """Whether it is one of the ten seeds of Catch, and none of the controls' three."""
        return self.path.name.startswith("Catch-toy-seed")

    @property
    def apart(self) -> str:
        """Behind the name of runs whose seeds were run on two kinds of processors: which one; else nothing."""
        return f", {self.processor}" if self.of_ten else ""

    @property
    def tuned_on(self) -> bool:
        """Whether this run helped to choose its preset."""
        return self.path.name in TUNED_ON

    @functools.cached_property
    def settings(self) -> Config:
        """The config but for the seed, and for what changes how a run is computed and no figure that it is after: runs
        equal in it belong together."""
        cached = presets.vary(self.config, "training", cache_tokens=True)
        return dataclasses.replace(cached, seed=0, precision="auto", kernels=True)

    @functools.cached_property
    def today(self) -> Config:
        """Its preset as it is today, in its game and for as many epochs: what `settings` is compared with."""
        now = presets.vary(presets.preset(self.config.preset), "env", id=self.config.env.id)
        return dataclasses.replace(now, seed=0, epochs=self.config.epochs)

    @functools.cached_property
    def preset(self) -> str:
        """The preset's name, and the epochs where they are others than today's."""
        name, epochs = self.config.preset, self.config.epochs
        return name if epochs == presets.preset(name).epochs else f"{name}, {epochs} epochs"

    @functools.cached_property
    def version(self) -> str:
        """How its config differs from today's preset, in the names of fields; empty where it does not.

        A field that has the value of the paper's preset is one that the run was without.
        """
        found = [(name, was) for name, was, _ in fields_that_differ(self.settings, self.today)]
        if len(found) > NAMED:
            return f"{len(found)} fields, {self.facts['started'][:10]}"
        paper = leaves(dataclasses.asdict(Config()))
        other = {name: was for name, was in found if isinstance(was, str) or was != paper[name]}
        lacking = [_last(name) for name, _ in found if name not in other]
        said = [f"{_last(name)} {was}" for name, was in other.items()]
        return ", ".join([*said, *([f"without {', '.join(lacking)}"] if lacking else [])])


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def results() -> list[Result]:
    """All runs, by game, preset, control and seed."""
    found = [Result.read(path.parent) for path in RESULTS.glob("*/*/final.json")]
    return sorted(found, key=lambda r: (r.config.env_name, r.config.preset, r.control, r.config.seed))


def whole() -> list[list[Result]]:
    """The runs with no link cut, those of one game and the same settings together, those of today's presets first;
    seeds that were run on two kinds of processors, apart."""
    groups: dict[tuple[str, bool, str, bool, str, Config], list[Result]] = defaultdict(list)
    for run in results():
        if run.control == "none":
            key = (run.config.env_name, bool(run.version), run.preset, run.tuned_on, run.apart, run.settings)
            groups[key].append(run)
    return [groups[key] for key in sorted(groups, key=lambda key: key[:5])]


def summary() -> str:
    """A row for each game and preset of today; of several groups of seeds, the longest runs with most seeds."""
    lines = [
        "| game, preset | seeds | env steps | mean (lowest to highest) | random player | REM, published "
        "| human-normalised |",
        "|---|---|---|---|---|---|---|",
    ]
    games: dict[tuple[str, str], list[list[Result]]] = defaultdict(list)
    for runs in whole():
        first = runs[0]
        if atari100k.benchmark_name(first.config.env_name) and not first.version:
            games[first.config.env_name, first.preset].append(runs)

    def rank(runs: list[Result]) -> tuple[float, int, str]:
        return runs[0].curve[-1]["env_steps"], len(runs), max(run.facts.get("started", "") for run in runs)

    for (game, preset), groups in games.items():
        runs = max(groups, key=rank)
        mean, random_player, normalised = _means(runs)
        of_each = sorted(run.final.mean for run in runs)
        spread = f" ({of_each[0]:,.0f} to {of_each[-1]:,.0f})" if len(runs) > 1 else ""
        lines.append(
            f"| {game}, {preset}{', tuned on' if runs[0].tuned_on else ''} | {len(runs)} "
            f"| {runs[0].curve[-1]['env_steps']:,.0f} | {mean:,.1f}{spread} "
            f"| {random_player:,.1f} | {np.mean(REM[game]):,.1f} | {normalised:.3f} |"
        )
    return "\n".join(lines)


def table(page: Path) -> str:
    """The runs of today's presets: a row each, and for each game with several seeds a row for all of them.

    Links are relative to `page`.
    """
    return _table(page, [runs for runs in whole() if not runs[0].version], earlier=False)


def earlier(page: Path) -> str:
    """The same of the runs whose config is not that of today's preset, with how it differs."""
    return _table(page, [runs for runs in whole() if runs[0].version], earlier=True)


def _table(page: Path, groups: list[list[Result]], *, earlier: bool) -> str:
    differs = " differs from today's |" * earlier
    lines = [
        f"| game, preset |{differs} seed | env steps | games | mean (95% interval) | random player (95% interval) | "
        "human-normalised | processor | training |",
        "|---" * (9 + earlier) + "|",
    ]
    for runs in groups:
        if not runs[0].of_ten:  # which evidence.md has, seed by seed
            lines += [_row(run, os.path.relpath(run.path, page.parent)) for run in runs]
        if len(runs) > 1:
            lines.append(_together(runs))
    return "\n".join(lines)


def controls() -> str:
    """A row for each link that was cut, with the score of every seed."""
    runs = [run for run in results() if run.config.preset == "toy" and not run.of_ten]
    lines = ["| what is cut | mean of each seed | above random play |", "|---|---|---|"]
    for name, what in CONTROLS.items():
        seeds = [run for run in runs if run.control == name]
        if seeds:
            means = ", ".join(f"{run.final.mean:.2f}" for run in seeds)
            lines.append(f"| {what} | {means} | {sum(run.above_random for run in seeds)} of {len(seeds)} |")
    return "\n".join(lines)


def catch() -> str:
    """A row for each way of computing, with the score of every seed of Catch."""
    lines = ["| processor, precision | mean of each seed, from 0 | 4.5 or more |", "|---|---|---|"]
    runs: dict[str, list[Result]] = defaultdict(list)
    for run in results():
        if run.of_ten:
            runs[f"{run.processor}, {run.facts['precision']}"].append(run)
    for how, seeds in runs.items():
        means = [run.final.mean for run in seeds]
        shown = ", ".join(f"{mean:.2f}" for mean in means)
        lines.append(f"| {how} | {shown} | {sum(mean >= 4.5 for mean in means)} of {len(seeds)} |")
    return "\n".join(lines)


def parts(*, earlier: bool) -> str:
    """How healthy the parts of runs are, by their diagnoses: of today's presets, or of their earlier versions."""
    differs = " differs from today's |" * earlier
    lines = [
        f"| run |{differs} score | moving pixels lost | accuracy of changing tokens | rewards predicted "
        "| value and return, correlation | after 5 dreamed steps (a frozen frame) |",
        "|---" * (7 + earlier) + "|",
    ]
    for run in diagnosed():
        if bool(run.version) == earlier:
            lines.append(_health(run, json.loads((run.path / "diagnosis.json").read_text())["parts"]))
    return "\n".join(lines)


def diagnosed() -> list[Result]:
    """The runs whose parts are shown; of the ten seeds of Catch none, which have a table of their own."""
    runs = [run for runs in whole() for run in runs if not run.of_ten and (run.path / "diagnosis.json").exists()]
    return [run for run in runs if run.config.tokenizer.kind == run.today.tokenizer.kind]


def _health(run: Result, diagnosis: list[dict[str, Any]]) -> str:
    figures = {figure["name"]: figure["value"] for part in diagnosis for figure in part["figures"]}

    def shown(name: str, how: str = ".0%") -> str:  # a reward that was not seen has no recall
        value = figures.get(name)
        return "–" if value is None else format(value, how)

    dreams = "–"  # where no game was long enough
    for curve in (c for part in diagnosis for c in part["curves"] if c["title"].startswith("tokens that agree")):
        five = curve["x"].index(5.0)
        dreams = f"{curve['lines']['dream'][five]:.0%} ({curve['lines']['frozen'][five]:.0%})"
    kept = ", kept to AVX2" if run.kept_to_avx2 else ""
    return (
        f"| {run.config.env_name}, {run.preset}, seed {run.config.seed}{kept} |{_version(run)} {run.final.mean:,.1f} "
        f"| {shown('moving pixels lost')} | {shown('token accuracy where tokens change')} "
        f"| {shown('reward positive: recall')} | {shown('correlation of value and return', '.2f')} | {dreams} |"
    )


def _row(run: Result, folder: str) -> str:
    link = f"[{run.config.seed}]({folder}/final.json){', tuned on' if run.tuned_on else ''}"
    normalised = run.final.human_normalised
    return (
        f"| {run.config.env_name}, {run.preset} |{_version(run)} {link} "
        f"| {run.curve[-1]['env_steps']:,.0f} | {len(run.final.scores)} "
        f"| {_mean(run.final)} | {_mean(run.random_player)} | {'' if normalised is None else f'{normalised:.3f}'} "
        f"| {run.processor} | {f'{run.minutes:.0f} min' if run.alone else 'shared'} |"
    )


def _together(runs: list[Result]) -> str:
    """The mean over seeds, with the interval from drawing the games of each again, and the lowest and highest seed."""
    game, finals = runs[0].config.env_name, [run.final for run in runs]
    mean, random_player, normalised = _means(runs)
    of_each = [final.mean for final in finals]
    random_players = [run.random_player for run in runs]
    count, games = sum(run.above_random for run in runs), sum(len(final.scores) for final in finals)
    return (
        f"| **{game}, {runs[0].preset}**{runs[0].apart} |{_version(runs[0])} all {len(runs)} | | {games} "
        f"| **{mean:,.1f}** ({_over_games(finals)}; seeds {min(of_each):,.1f} to {max(of_each):,.1f}) "
        f"| {random_player:,.1f} ({_over_games(random_players)}); {count} of {len(runs)} seeds above it "
        f"| {'' if normalised is None else f'**{normalised:.3f}**'} | | |"
    )


def _version(run: Result) -> str:
    """The cell of the second table; the first has none."""
    return f" {run.version} |" if run.version else ""


def _means(runs: list[Result]) -> tuple[float, float, float | None]:
    """Over the seeds of one game: the agent's mean, the random player's, and the former human-normalised."""
    game = runs[0].config.env_name
    mean = math.fsum(run.final.mean for run in runs) / len(runs)
    random_player = math.fsum(run.random_player.mean for run in runs) / len(runs)
    return mean, random_player, scores.human_normalised(game, mean) if atari100k.benchmark_name(game) else None


def _over_games(evaluations: list[Evaluation]) -> str:
    low, high = scores.mean_interval([e.scores for e in evaluations], np.random.default_rng(0))
    return f"{low:,.1f} to {high:,.1f}"


def _mean(result: Evaluation) -> str:
    low, high = result.interval
    return f"{result.mean:,.1f} ({low:,.1f} to {high:,.1f})"


def draw() -> Path:
    """Curves of all runs: a panel a game and config, today's presets first; a colour a seed."""
    groups = sorted(whole(), key=lambda runs: bool(runs[0].version))
    columns = min(3, len(groups))
    rows = math.ceil(len(groups) / columns)
    figure, panels = plt.subplots(rows, columns, figsize=(4.4 * columns, 3.2 * rows), squeeze=False, layout="tight")
    for axes in panels.flat[len(groups) :]:
        axes.remove()
    for axes, runs in zip(panels.flat, groups, strict=False):
        for i, run in enumerate(runs):
            colour = f"C{i}"
            returns = [(r["env_steps"], r["collect/return"]) for r in run.curve if "collect/return" in r]
            axes.plot(*zip(*returns, strict=True), ".", color=colour, markersize=3, alpha=0.35)
            points = [(r["env_steps"], r["evaluation/mean"], r["evaluation/low"], r["evaluation/high"])
                      for r in run.curve if "evaluation/mean" in r]  # fmt: skip
            points.append((run.curve[-1]["env_steps"], run.final.mean, *run.final.interval))
            x, mean, low, high = zip(*points, strict=True)
            axes.plot(x, mean, "o-", color=colour, markersize=4, linewidth=1.4, label=f"seed {run.config.seed}")
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        random_player = [run.random_player.mean for run in runs]
        axes.axhline(
            sum(random_player) / len(random_player),
            color="0.3",
            linewidth=0.9,
            linestyle=(0, (4, 3)),
            label="random player",
        )
        tuned = ", tuned on" if runs[0].tuned_on else ""
        heading = f"{runs[0].config.env_name}, {runs[0].preset}{tuned}{runs[0].apart}"
        differs = f"differs: {runs[0].version}" if runs[0].version else ""
        axes.set_title("\n".join(textwrap.wrap(heading, 52) + textwrap.wrap(differs, 52)), fontsize=9)
        axes.set_xlabel("env steps", fontsize=9)
        axes.set_ylabel("score of a game", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    path = ROOT / "docs" / "curves.png"
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return path


def write_between(text: str, marker: str, body: str) -> str:
    """`text` with what stands between the comments `marker` and `/marker` replaced. ValueError where they lack."""
    pattern = re.compile(rf"(<!-- {re.escape(marker)} -->\n).*?(<!-- /{re.escape(marker)} -->)", re.S)
    if not pattern.search(text):
        raise ValueError(f"no <!-- {marker} --> ... <!-- /{marker} --> to write between")
    return pattern.sub(lambda m: f"{m[1]}{body}\n{m[2]}", text)


def pages() -> dict[Path, str]:
    """The pages that carry tables, as they should read."""
    readme, runs, evidence = ROOT / "README.md", ROOT / "docs" / "results.md", ROOT / "docs" / "evidence.md"
    body = write_between(evidence.read_text(), "controls", controls())
    body = write_between(body, "catch", catch())
    of_runs = write_between(runs.read_text(), "results", table(runs))
    of_runs = write_between(of_runs, "earlier", earlier(runs))
    return {
        readme: write_between(readme.read_text(), "results", summary()),
        runs: write_between(of_runs, "earlier parts", parts(earlier=True)),
        evidence: write_between(body, "parts", parts(earlier=False)),
    }
