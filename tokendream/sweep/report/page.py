"""The page of a benchmark report, section by section, in the style of a run's report."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

import numpy as np

from tokendream.envs.atari100k import ATARI_100K
from tokendream.evaluation import published, scores
from tokendream.reports import page as frame
from tokendream.sweep.report import charts
from tokendream.sweep.report.results import Result, protocol_of
from tokendream.sweep.report.summary import Row, Summary, curve

COLUMNS = (("iqm", "IQM"), ("median", "median"), ("mean", "mean"), ("optimality_gap", "optimality gap"))
"""Aggregates of the table, in its order; the number of superhuman games follows."""


def page(summary: Summary) -> str:
    """The whole page as one string; it asks nobody for anything."""
    agents = summary.results.players if summary.games else summary.results.agents
    whose = "as published" if not agents else agents[0] if len(agents) == 1 else f"{len(agents)} agents"
    title = f"{'Atari 100K' if summary.games else 'Results'}: {whose}"
    return frame.page(title, [f"<h1>{html.escape(title)}</h1>", *_sections(summary)])


def _sections(summary: Summary) -> Iterator[str]:
    yield from _head(summary)
    if summary.games:
        yield from _atari(summary)
    elif any(run.game in ATARI_100K for run in summary.results.runs):
        yield '<p class="later">Figures over the 26 games appear with the first game that has all its seeds.</p>'
    for game in summary.results.environments:
        yield from _environment(summary, game)
    if summary.results.runs:
        yield "<h2>Every run</h2>"
        yield from _runs(summary.results.runs)
    if summary.games:
        yield from _sources()


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
        yield (
            f'<p class="soft">The published agents had {published.ENV_STEPS:,} env steps, these runs '
            f"{atari['env_steps']:,}: the comparison says how far they are, not which method is better.</p>"
        )
    missing = results.missing()
    not_played = {agent: games for agent in results.players if (games := results.not_played(agent))}
    if missing or not_played:
        items = "".join(
            f"<li>{html.escape(f'{game}, seed {seed}')} <b>{html.escape(f'{agent}: {state}')}</b></li>"
            for agent, game, seed, state in missing
        )
        whole = "".join(
            f"<p><b>{html.escape(agent)} did not play {len(games)} of the 26 games:</b> {', '.join(games)}.</p>"
            for agent, games in not_played.items()
        )
        runs = (
            f"<p><b>{len(missing)} of {len(results.wanted)} runs are missing.</b> A game without all its seeds is in "
            f'no mean of this page.</p><ul class="facts">{items}</ul>'
        )
        yield f'<div class="missing">{runs if missing else ""}{whole}</div>'
    for row in summary.ours:
        yield _tiles(row, len(summary.games))


def _tiles(row: Row, games: int) -> str:
    cells = "".join(
        f'<div class="tile"><b>{getattr(row.figures, name):.3f}</b><span>{title}{_spread(row, name, ", ")}</span></div>'
        for name, title in COLUMNS
    )
    cells += (
        f'<div class="tile"><b>{row.figures.superhuman:.0f}</b><span>of {games} games at or above a human</span></div>'
    )
    title = f"{html.escape(row.name)}, over {games} of the 26 games"
    return f'<h3 class="agent">{title}</h3><div class="tiles close">{cells}</div>'


def _spread(row: Row, name: str, before: str = "") -> str:
    if row.intervals is None:
        return f"{before}one seed"
    low, high = row.intervals[name]
    return f"{before}{low:.3f} to {high:.3f}"


def _atari(summary: Summary) -> Iterator[str]:
    yield f"<h2>Over {len(summary.games)} of the 26 games</h2>"
    yield (
        '<p class="soft">Human-normalised scores: 0 is random play, 1 a human. Bars are 95% stratified bootstrap '
        "intervals over runs; the games are fixed.</p>"
    )
    cells = [
        f'<div class="card"><h3>{title}</h3>{svg}<span class="soft">{better}</span></div>'
        for title, better, svg in charts.aggregates(summary)
    ]
    yield f'<div class="multiples wide">{"".join(cells)}</div>'
    yield from _aggregates(summary)
    yield "<h2>Performance profile</h2>"
    yield f'<div class="card">{charts.profiles(summary)}</div>'
    yield (
        '<p class="soft">How many of all runs of all games score above τ. A curve above another everywhere is better '
        "at every level; the scale is that of the square root.</p>"
    )
    if summary.improvements:
        yield "<h2>Probability of improvement</h2>"
        yield f'<div class="card">{charts.improvements(summary.improvements, charts.colours(summary.rows))}</div>'
        yield '<p class="soft">Says how often, not by how much. Left of the dashed line the other agent wins.</p>'
    if summary.ours:
        yield "<h2>Sample efficiency</h2>"
        # The curve holds evaluations during training too, which have fewer games; the level is the final one.
        rem = next(row.figures.iqm for row in summary.rows if row.name.startswith("REM,"))
        level = {f"REM, published, after {published.ENV_STEPS:,} steps": rem}
        drawn = charts.over_steps(summary.curves, level, "IQM of human-normalised scores")
        yield f'<div class="card">{drawn}</div>' if drawn else _later("two evaluations at the same env steps")
    yield "<h2>Game by game</h2>"
    yield f'<div class="card">{charts.games(summary)}</div>' if summary.games else ""
    yield from _games(summary)


def _aggregates(summary: Summary) -> Iterator[str]:
    yield '<div class="scroll"><table><tr><th>agent</th><th class="n">runs a game</th>'
    yield "".join(f'<th class="n">{title}</th>' for _, title in COLUMNS)
    yield f'<th class="n">superhuman, of {len(summary.games)}</th></tr>'
    for row in summary.rows:
        cells = [
            f"{getattr(row.figures, name):.3f}<small>{_spread(row, name) if row.intervals else ''}</small>"
            for name, _ in COLUMNS
        ]
        cells = [str(len(row.runs)), *cells, f"{row.figures.superhuman:.0f}"]
        yield (
            f"<tr{_ours(row.ours)}><td>{html.escape(row.name)}</td>"
            + "".join(f'<td class="n">{cell}</td>' for cell in cells)
            + "</tr>"
        )
    yield "</table></div>"


def _games(summary: Summary) -> Iterator[str]:
    """All 26 games, those that are missing too; the best published mean of a row is bold."""
    agents, others = summary.results.players, published.agents()
    yield '<div class="scroll"><table class="small"><tr><th>game</th><th class="n">random</th><th class="n">human</th>'
    yield "".join(f'<th class="n">{name}</th>' for name in others)
    yield "".join(f'<th class="n">{html.escape(agent)}</th>' for agent in agents) + "</tr>"
    for game, reference in ATARI_100K.items():
        means = {name: float(np.mean(agent.runs[game])) for name, agent in others.items()}
        best = max(means.values())
        cells = [number(reference.random), number(reference.human)]
        cells += [f"<b>{number(m)}</b>" if m == best else number(m) for m in means.values()]
        cells += [game_cell(summary, agent, game) for agent in agents]
        yield f"<tr><td>{game}</td>" + "".join(f'<td class="n">{cell}</td>' for cell in cells) + "</tr>"
    yield "</table></div>"
    yield '<p class="soft">Means of the final evaluations over runs, in the score units of the game.</p>'


def game_cell(summary: Summary, agent: str, game: str) -> str:
    """The mean over seeds with its interval; what is missing is said, and then there is no mean."""
    found, seeds = summary.results.scores(agent, game), summary.results.seeds(agent)
    if not found:
        return '<span class="gone">missing</span>'
    if tuple(found) != seeds:
        lacking = ", ".join(str(seed) for seed in seeds if seed not in found)
        values = ", ".join(number(score) for score in found.values())
        return f'{values}<small class="gone">seed {lacking} missing</small>'
    low, high = scores.mean_interval(list(found.values()), np.random.default_rng(0))
    spread = f"<small>{number(low)} to {number(high)}</small>" if len(found) > 1 else "<small>one seed</small>"
    return number(float(np.mean(list(found.values())))) + spread


def _environment(summary: Summary, game: str) -> Iterator[str]:
    """An environment that is not of the 26: scores as they are."""
    results = summary.results
    runs = [run for run in results.runs if run.game == game]
    yield f"<h2>{html.escape(game)}</h2>"
    finished = {agent: [r for r in runs if r.agent == agent and r.score is not None] for agent in results.agents}
    whole = {a: r for a, r in finished.items() if r and tuple(results.scores(a, game)) == results.seeds(a)}
    chance = [run.folder.chance.mean for run in runs if run.folder.chance]
    level = {"random player": float(np.mean(chance))} if chance else {}
    curves = {agent: curve(of, normalised=False) for agent, of in whole.items()}
    if drawn := charts.over_steps(curves, level, "score of a game, mean over seeds"):
        yield f'<div class="card">{drawn}</div>'
    yield '<table><tr><th>agent</th><th class="n">of each seed</th><th class="n">mean over seeds</th></tr>'
    for agent in dict.fromkeys(agent for agent, name, _ in results.wanted if name == game):
        each = ", ".join(number(score) for score in results.scores(agent, game).values()) or "–"
        yield f'<tr><td>{html.escape(agent)}</td><td class="n">{each}</td>'
        yield f'<td class="n">{game_cell(summary, agent, game)}</td></tr>'
    for label, value in level.items():
        yield f'<tr><td>{label}</td><td class="n"></td><td class="n">{number(value)}</td></tr>'
    yield "</table>"


def _runs(runs: Sequence[Result]) -> Iterator[str]:
    yield '<div class="scroll"><table class="small"><tr><th>game</th><th>agent</th><th class="n">seed</th>'
    yield '<th class="n">score</th><th class="n">95% interval over games</th><th class="n">random player</th>'
    yield '<th class="n">training</th><th>device</th><th>commit</th></tr>'
    for run in sorted(runs, key=lambda r: (r.game, r.agent, r.seed)):
        final, chance, facts = run.folder.final, run.folder.chance, run.folder.facts
        spread = " to ".join(number(v) for v in final.interval) if final else ""
        minutes = run.folder.records[-1].get("seconds", 0) / 60 if run.folder.records else 0
        score = number(final.mean) if final else f'<span class="gone">{html.escape(run.state)}</span>'
        numbers = (str(run.seed), score, spread, number(chance.mean) if chance else "", f"{minutes:,.0f} min")
        words = "".join(f"<td>{html.escape(facts.get(k, ''))}</td>" for k in ("device", "commit"))
        yield f"<tr><td>{html.escape(run.game)}</td><td>{html.escape(run.agent)}</td>"
        yield "".join(f'<td class="n">{cell}</td>' for cell in numbers) + words + "</tr>"
    yield "</table></div>"


def _sources() -> Iterator[str]:
    yield "<h2>Where the published figures are from</h2><table><tr><th>agent</th><th>paper</th><th>its runs</th></tr>"
    for agent in published.agents().values():
        cells = (agent.name, agent.paper, agent.source)
        yield "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
    yield (
        '</table><p class="soft">Five runs a game each, as kept there. Random play and human: REM\'s table of results. '
        "Intervals and aggregates are computed here from those runs.</p>"
    )


def number(value: float) -> str:
    """A score: one decimal as the literature has it, none above a thousand."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}"


def _later(when: str) -> str:
    return f'<p class="later">Appears with {when}.</p>'


def _ours(ours: bool) -> str:
    return ' class="ours"' if ours else ""
