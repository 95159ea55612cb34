"""The report's page, section by section. A section without data yet says what will appear there, and when."""

from __future__ import annotations

import base64
import dataclasses
import html
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from tokendream.config.config import leaves
from tokendream.reports import charts, media
from tokendream.reports.charts import svg
from tokendream.reports.page import card, facts, later, page, score, sentences, soft, table, tiles
from tokendream.reports.results import RunFolder
from tokendream.runfolder import files

ROWS = ("real", "reconstruction", "dream")
MOMENTS = 8
"""Moments of a film that its strip shows."""

ACROSS = 64
"""Codes in a row of their sheet."""

FACTS = ("core_hours", "device", "processor", "resumed", "torch", "commit", "started")
"""Of the facts of a run, those that its page shows."""

FILM_LIMIT = 6 * 2**20
"""Bytes of a film beyond which the page points to the file instead of carrying it."""


def write_pictures(run_dir: Path, *films: UInt8[np.ndarray, "T 3 H W"]) -> None:
    """Write a strip of each of three films of the same moments, and then all of them side by side."""
    chosen = np.unique(np.linspace(0, len(films[0]) - 1, MOMENTS).astype(int))
    for name, film in zip(ROWS, films, strict=True):
        strip = media.enlarge(media.strip(film[chosen], gap=1), 2)
        media.write_png(run_dir / "pictures" / f"{name}.png", strip)
    media.write_mp4(run_dir / "films" / "dream.mp4", media.columns(*films), fps=8)


def write_codes(run_dir: Path, codes: UInt8[np.ndarray, "V 3 S S"]) -> None:
    """Write what each code is drawn as, all in one picture."""
    media.write_png(run_dir / "pictures" / "codes.png", media.enlarge(media.sheet(codes, min(ACROSS, len(codes))), 2))


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run folder, whole or not at all. Raises a ValueError for a folder that is no run."""
    folder = RunFolder.read(run_dir)
    path = run_dir / "report.html"
    files.replace_text(path, page(_short(folder), _sections(folder)))
    return path


def _sections(folder: RunFolder) -> Iterator[str]:
    yield from _head(folder)
    yield "<h2>Learning curve</h2>"
    begun = bool(folder.evaluations or folder.returns[0])
    first = "the first evaluation" if folder.signs_alone else "the first finished game of training"
    yield card(svg(charts.learning, 8.0, 3.6, folder)) if begun else later(first)
    if folder.signs_alone:
        yield soft("Training games pay the signs of rewards alone and have no score: evaluations do.")
    else:
        yield soft("Healthy: the smoothed line leaves the random level, and evaluations rise with it.")
    yield "<h2>What the agent sees and what it dreams</h2>"
    yield from _pictures(folder)
    yield "<h2>Evaluation</h2>"
    yield from _evaluation(folder)
    yield "<h2>Why is it not better?</h2>"
    asked = "tokendream diagnose, which plays fresh games and says it in words"
    yield sentences(folder.why) if folder.why else later(asked)
    yield "<h2>The three parts while they learn</h2>"
    curves = [(folder.series(name), title, healthy) for name, title, healthy in charts.LOSSES]
    cells = [card(svg(charts.loss, 3.1, 1.7, x, y), title, f"healthy: {healthy}")
             for (x, y), title, healthy in curves if len(x) > 1]  # fmt: skip
    yield f'<div class="multiples">{"".join(cells)}</div>' if cells else later("the second epoch of each part")
    yield "<h2>Where the time goes</h2>"
    several = len(folder.records) > 1
    yield card(svg(charts.time_spent, 8.0, 2.6, folder)) if several else later("the second epoch")
    yield soft("Seconds of every epoch by phase; a part that has not started yet costs nothing.")
    yield "<h2>Again</h2>"
    run = html.escape(shlex.quote(str(folder.path)))
    yield (
        f"<pre>tokendream train --resume {run}      # go on, or finish what is missing\n"
        f"tokendream eval {run} --episodes 100  # evaluate the last checkpoint\n"
        f"tokendream report {run}               # rebuild this page</pre>"
    )
    config = [(f"<code>{html.escape(name)}</code>", html.escape(str(value)))
              for name, value in leaves(dataclasses.asdict(folder.config)).items()]  # fmt: skip
    yield f"<details><summary>The effective config</summary>{table('ll', ('field', 'value'), config)}</details>"


def _head(folder: RunFolder) -> Iterator[str]:
    config, last = folder.config, folder.records[-1] if folder.records else {}
    epoch, steps = int(last.get("epoch", 0)), int(last.get("env_steps", 0))
    known = {
        "preset": config.preset,
        "seed": config.seed,
        "state": "finished" if folder.final else f"epoch {epoch} of {config.epochs}, running or cut",
        "env steps": f"{steps:,}",
        "training time": f"{last.get('seconds', 0) / 60:.1f} min",
        **{name.replace("_", " "): folder.facts[name] for name in FACTS if folder.facts.get(name)},
    }
    yield f"<h1>{html.escape(_short(folder))}</h1>{facts(known)}"
    yield f'<div class="bar"><i style="width:{100 * epoch / config.epochs:.1f}%"></i></div>'
    shown: list[tuple[str, str]] = []
    if folder.evaluations:
        newest = folder.evaluations[-1]
        games = f"{len(newest.scores)} games, 95% interval {' to '.join(map(score, newest.interval))}"
        shown.append((score(newest.mean), f"mean score, {games}"))
        if newest.human_normalised is not None:
            shown.append((f"{newest.human_normalised:.3f}", "human-normalised: 0 random, 1 human"))
    if random := folder.random_player:
        shown.append((score(random.mean), f"random player, {len(random.scores)} games, same protocol"))
    if folder.reference:
        shown.append((score(folder.reference.rem), "REM as published, after 100,000 steps"))
    yield tiles(shown)


def _pictures(folder: RunFolder) -> Iterator[str]:
    strips = [(name, folder.path / "pictures" / f"{name}.png") for name in ROWS]
    if all(path.is_file() for _, path in strips):
        rows = "".join(f'<span>{name}</span><img alt="{name}" src="{_data(p, "image/png")}">' for name, p in strips)
        yield f'<div class="card strip">{rows}</div>'
        yield soft(
            "The dream sees the first frame; from there on it gets nothing but the actions that were really taken. "
            "Healthy: the reconstruction keeps every small moving thing, the dream drifts late."
        )
    else:
        yield later("the first refresh of this page, about a minute into training")
    shown = (
        ("dream", "really happened | reconstruction | dreamed under the same actions"),
        ("best", "the best game of the evaluation"),
        ("median", "the median game of the evaluation"),
    )
    if (codes := folder.path / "pictures" / "codes.png").is_file():
        yield f'<div class="card"><img class="codes" alt="codes" src="{_data(codes, "image/png")}"></div>'
        yield soft("Every code drawn by itself, as a cell of a frame: all that a dream's pictures are made of.")
    cells = [_film(folder.path / "films" / f"{name}.mp4", caption) for name, caption in shown]
    yield f'<div class="films">{"".join(filter(None, cells))}</div>'
    if not folder.final:
        yield later("the end of training: films of the best and of the median game")


def _film(path: Path, caption: str) -> str:
    if not path.is_file():
        return ""
    if path.stat().st_size > FILM_LIMIT:
        return f"<figure><figcaption>{caption}: films/{path.name}, too large for this page</figcaption></figure>"
    return (
        f'<figure><video autoplay loop muted playsinline controls src="{_data(path, "video/mp4")}"></video>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _evaluation(folder: RunFolder) -> Iterator[str]:
    named = [(f"during training, epoch {e.protocol.get('epoch')}", e) for e in folder.during]
    named += [(name, e) for name, e in (("final", folder.final), ("random player", folder.random_player)) if e]
    if not named:
        yield later("the first evaluation")
        return
    heads = ("who", "games", "mean", "95% interval", "median", "best", "normalised")
    rows = [
        (html.escape(name), str(len(e.scores)), score(e.mean), " to ".join(map(score, e.interval)), score(e.median),
         score(max(e.scores)), "" if e.human_normalised is None else f"{e.human_normalised:.3f}")
        for name, e in named
    ]  # fmt: skip
    yield table("lrrrrrr", heads, rows)
    if folder.final:
        yield card(svg(charts.histogram, 8.0, 2.4, folder.final, folder.random_player))


def _short(folder: RunFolder) -> str:
    return f"{folder.config.env_name}, preset {folder.config.preset}, seed {folder.config.seed}"


def _data(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
