"""The page of a benchmark report, section by section, in the style of a run's report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

import numpy as np

from tokendream.envs.atari100k import ATARI_100K
from tokendream.evaluation import published, scores
from tokendream.reports import page as frame
from tokendream.reports.charts import svg
from tokendream.reports.page import card, later, score, soft, table, tiles
from tokendream.sweep.report import charts, comparison
from tokendream.sweep.report.results import Result, protocol_of
from tokendream.sweep.report.summary import AGGREGATES, AgentScores, Point, Summary, curve


def page(summary: Summary) -> str:
    """The whole page as one string; it asks nobody for anything."""
    agents = summary.results.players if summary.games else summary.results.agents
    whose = "as published" if not agents else agents[0] if len(agents) == 1 else f"{len(agents)} agents"
    title = f"{'Atari 100K' if summary.games else 'Results'}: {whose}"
    return frame.page(title, [f"<h1>{escape(title)}</h1>", *_sections(summary)])


def _sections(summary: Summary) -> Iterator[str]:
    yield from _head(summary)
    yield from _missing(summary)
    games = len(summary.games)
    for agent in summary.ours:
        figures = [(f"{getattr(agent.figures, name):.3f}", f"{title}, {_interval(agent, name) or 'one seed'}")
                   for name, title, _ in AGGREGATES]  # fmt: skip
        human = (f"{agent.figures.superhuman:.0f}", f"of {games} games at or above a human")
        yield f'<h3 class="agent">{escape(agent.name)}, over {games} of the 26 games</h3>{tiles([*figures, human])}'
    if summary.games:
        yield from _atari(summary)
    elif any(run.game in ATARI_100K for run in summary.results.runs):
        yield '<p class="later">Figures over the 26 games appear with the first game that has all its seeds.</p>'
    yield from _learning(summary)
    for game in summary.results.environments:
        yield from _environment(summary, game)
    if summary.results.runs:
        heads = ("game", "agent", "seed", "score", "95% interval over games", "random player", "training", "device",
                 "commit")  # fmt: skip
        runs = sorted(summary.results.runs, key=lambda run: (run.game, run.agent, run.seed))
        yield f"<h2>Every run</h2>{table('llrrrrrll', heads, map(_run, runs), small=True)}"
    if summary.games:
        rows = [(escape(a.name), escape(a.paper), escape(a.source)) for a in published.agents().values()]
        yield "<h2>Where the published figures are from</h2>" + table("lll", ("agent", "paper", "its runs"), rows)
        yield soft(
            "Five runs a game each (HarmonyDream: three), as kept there. Random play and human: REM's table of "
            "results. Intervals and aggregates are computed here from those runs."
        )


def _head(summary: Summary) -> Iterator[str]:
    results = summary.results
    finished = [run for run in results.runs if run.score is not None]
    facts = {"runs": f"{len(finished)} finished of {len(results.wanted)}"} if results.wanted else {}
    if summary.games:
        facts["games compared"] = f"{len(summary.games)} of 26"
    atari = protocol_of([run for run in results.runs if run.game in ATARI_100K])
    if atari:
        facts |= {
            "env steps": f"{atari['env_steps']:,}",
            "games of an evaluation": str(atari["evaluation.episodes"]),
            "temperature": f"{atari['evaluation.temperature']:g}",
            "frame": f"{atari['env.size']} pixels",
            "sticky actions": f"{atari.get('evaluated sticky_actions', 0):g}",
        }
    yield frame.facts(facts)
    if atari and atari["env_steps"] != published.ENV_STEPS:
        yield soft(
            f"The published agents had {published.ENV_STEPS:,} env steps, these runs {atari['env_steps']:,}: the "
            "comparison says how far they are, not which method is better."
        )


def _missing(summary: Summary) -> Iterator[str]:
    """What was meant to be there and is not."""
    results, said = summary.results, ""
    if missing := results.missing():
        said = (
            f"<p><b>{len(missing)} of {len(results.wanted)} runs are missing.</b> A game without all its seeds is in "
            "no mean of this page.</p>"
        ) + frame.facts({f"{game}, seed {seed}, {agent}:": state for agent, game, seed, state in missing})
    for agent in results.players:
        if games := results.not_played(agent):
            said += f"<p><b>{escape(agent)} did not play {len(games)} of the 26 games:</b> {', '.join(games)}.</p>"
    if said:
        yield f'<div class="missing">{said}</div>'


def _interval(agent: AgentScores, name: str) -> str:
    return "{:.3f} to {:.3f}".format(*agent.intervals[name]) if agent.intervals else ""


def _atari(summary: Summary) -> Iterator[str]:
    yield f"<h2>Over {len(summary.games)} of the 26 games</h2>"
    yield soft(
        "Human-normalised scores: 0 is random play, 1 a human. Bars are 95% stratified bootstrap intervals over runs; "
        "the games are fixed."
    )
    height = 0.5 + 0.24 * len(summary.agents)
    cells = [card(svg(charts.aggregate, 3.9, height, summary, name), title, better)
             for name, title, better in AGGREGATES]  # fmt: skip
    yield f'<div class="multiples wide">{"".join(cells)}</div>'
    heads = ("agent", "runs a game", *(title for _, title, _ in AGGREGATES), f"superhuman, of {len(summary.games)}")
    yield table("lrrrrrr", heads, map(_aggregates, summary.agents))
    yield "<h2>Performance profile</h2>" + card(svg(charts.profiles, 8.0, 3.8, summary))
    yield soft(
        "How many of all runs of all games score above τ. A curve above another everywhere is better at every level; "
        "the scale is that of the square root."
    )
    if found := summary.improvements:
        yield "<h2>Probability of improvement</h2>"
        yield card(svg(charts.improvements, 8.0, 0.7 + 0.26 * len(found), found, charts.colours(summary)))
        yield soft("Says how often, not by how much. Left of the dashed line the other agent wins.")
    if summary.ours:
        # The curve holds evaluations during training too, which have fewer games; the level is the final one.
        rem = next(agent.figures.iqm for agent in summary.agents if agent.name == "REM, published")
        level = {f"REM, published, after {published.ENV_STEPS:,} steps": rem}
        drawn = _over_steps(summary, summary.curves, level, "IQM of human-normalised scores")
        yield "<h2>Sample efficiency</h2>" + (drawn or later("two evaluations at the same env steps"))
    yield "<h2>Game by game</h2>" + card(svg(charts.games, 8.0, 1.0 + 0.23 * len(summary.games), summary))
    agents, others = summary.results.players, published.agents()
    heads = ("game", "random", "human", *others, *map(escape, agents))
    rows = [(game, *_published(game), *(game_cell(summary, agent, game) for agent in agents)) for game in ATARI_100K]
    yield table("l" + "r" * (len(heads) - 1), heads, rows, small=True)
    yield soft("Means of the final evaluations over runs, in the score units of the game.")
    yield from comparison.ablations(summary)


def _over_steps(
    summary: Summary,
    curves: Mapping[str, Sequence[Point]],
    levels: Mapping[str, float],
    what: str,
    *,
    title: str = "",
    width: float = 8.0,
) -> str:
    """The chart, where a curve has two points."""
    if not any(len(points) > 1 for points in curves.values()):
        return ""
    drawn = curves, levels, what, charts.colours(summary)
    return card(svg(charts.over_steps, width, min(3.2, 0.7 * width), *drawn), title)


def _aggregates(agent: AgentScores) -> list[str]:
    cells = [f"{getattr(agent.figures, name):.3f}<small>{_interval(agent, name)}</small>" for name, *_ in AGGREGATES]
    cells = [str(len(agent.runs)), *cells, f"{agent.figures.superhuman:.0f}"]
    return [f"<b>{escape(agent.name)}</b>" if agent.ours else escape(agent.name), *cells]


def _published(game: str) -> list[str]:
    """Scores of random play, a human and the published agents, of whose means the best is bold."""
    means = [float(np.mean(agent.runs[game])) for agent in published.agents().values()]
    reference = [score(ATARI_100K[game].random), score(ATARI_100K[game].human)]
    return reference + [f"<b>{score(mean)}</b>" if mean == max(means) else score(mean) for mean in means]


def game_cell(summary: Summary, agent: str, game: str) -> str:
    """The mean over seeds with its interval; what is missing is said, and then there is no mean."""
    found, seeds = summary.results.scores(agent, game), summary.results.seeds[agent]
    if not found:
        return '<span class="gone">missing</span>'
    if tuple(found) != seeds:
        lacking = ", ".join(str(seed) for seed in seeds if seed not in found)
        values = ", ".join(score(value) for value in found.values())
        return f'{values}<small class="gone">seed {lacking} missing</small>'
    low, high = scores.mean_interval([list(found.values())], np.random.default_rng(0))
    spread = f"{score(low)} to {score(high)}" if len(found) > 1 else "one seed"
    return f"{score(float(np.mean(list(found.values()))))}<small>{spread}</small>"


def _learning(summary: Summary) -> Iterator[str]:
    """A learning curve for each of the 26 games of which there is one, beside random play and REM as published."""
    cells = []
    for game, reference in ATARI_100K.items():
        random = _random(summary, game)
        levels = {"random player": reference.random if random is None else random, "REM, published": reference.rem}
        drawn = _over_steps(summary, _curves(summary, game), levels, "score", title=game, width=3.9)
        cells += [drawn] if drawn else []
    if cells:
        yield f'<h2>Learning curves</h2><div class="multiples wide">{"".join(cells)}</div>'
        yield soft(
            "Mean score over seeds, with its 95% bootstrap interval where there are several; lines: a random player "
            "under the same protocol (where none was measured, as published), and REM's published mean."
        )


def _random(summary: Summary, game: str) -> float | None:
    """The mean of the random players measured beside a game's runs."""
    folders = [run.folder for run in summary.results.runs if run.game == game]
    means = [folder.random_player.mean for folder in folders if folder.random_player]
    return float(np.mean(means)) if means else None


def _curves(summary: Summary, game: str) -> dict[str, tuple[Point, ...]]:
    """The curve of every agent that has all its seeds of a game."""
    results = summary.results
    runs = [run for run in results.runs if run.game == game and run.score is not None]
    return {
        agent: curve([run for run in runs if run.agent == agent], normalised=False)
        for agent in results.agents
        if results.has_all_seeds(agent, game)
    }


def _environment(summary: Summary, game: str) -> Iterator[str]:
    """An environment that is not of the 26: scores as they are."""
    results, random = summary.results, _random(summary, game)
    level = {} if random is None else {"random player": random}
    level |= comparison.levels([run for run in results.runs if run.game == game])
    drawn = _over_steps(summary, _curves(summary, game), level, "score of a game, mean over seeds")
    yield f"<h2>{escape(game)}</h2>{drawn}"
    rows = []
    for agent in dict.fromkeys(agent for agent, name, _ in results.wanted if name == game):
        each = ", ".join(score(value) for value in results.scores(agent, game).values()) or "–"
        rows.append((escape(agent), each, game_cell(summary, agent, game)))
    rows += [(name, "", score(value)) for name, value in level.items()]
    yield table("lrr", ("agent", "of each seed", "mean over seeds"), rows)


def _run(run: Result) -> tuple[str, ...]:
    final, random, facts, records = run.folder.final, run.folder.random_player, run.folder.facts, run.folder.records
    return (
        escape(run.game),
        escape(run.agent),
        str(run.seed),
        score(final.mean) if final else f'<span class="gone">{escape(run.state)}</span>',
        " to ".join(score(value) for value in final.interval) if final else "",
        score(random.mean) if random else "",
        f"{records[-1].get('seconds', 0) / 60 if records else 0:,.0f} min",
        escape(facts.get("device", "")),
        escape(facts.get("commit", "")),
    )
