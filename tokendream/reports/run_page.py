"""The report's page, section by section. A section without data yet says what will appear there, and when."""

from __future__ import annotations

import base64
import dataclasses
import html
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from tokendream.evaluation.evaluation import Evaluation
from tokendream.reports import charts, media
from tokendream.reports.page import facts, page
from tokendream.reports.results import Folder
from tokendream.runfolder import files

ROWS = ("real", "reconstruction", "dream")
MOMENTS = 8
"""Moments of a film that its strip shows."""

FILM_LIMIT = 6 * 2**20
"""Bytes of a film beyond which the page points to the file instead of carrying it."""


def write_pictures(
    run_dir: Path,
    real: UInt8[np.ndarray, "T 3 S S"],
    reconstruction: UInt8[np.ndarray, "T 3 S S"],
    dream: UInt8[np.ndarray, "T 3 S S"],
) -> None:
    """Write a strip of each of three films of the same moments, and then all of them side by side."""
    chosen = np.unique(np.linspace(0, len(real) - 1, MOMENTS).astype(int))
    for name, film in zip(ROWS, (real, reconstruction, dream), strict=True):
        strip = media.enlarge(media.strip(film[chosen], gap=1), 2)
        media.write_png(run_dir / "pictures" / f"{name}.png", strip)
    media.write_mp4(run_dir / "films" / "dream.mp4", media.columns(real, reconstruction, dream), fps=8)


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run folder, whole or not at all. Raises a ValueError for a folder that is no run."""
    folder = Folder.read(run_dir)
    path = run_dir / "report.html"
    files.replace_text(path, page(_short(folder), _sections(folder)))
    return path


def _sections(folder: Folder) -> Iterator[str]:
    yield _head(folder)
    yield "<h2>Learning curve</h2>"
    yield _chart(charts.learning(folder), "the first finished game of training")
    yield '<p class="soft">Healthy: the smoothed line leaves the random level, and evaluations rise with it.</p>'
    yield "<h2>What the agent sees and what it dreams</h2>"
    yield from _pictures(folder)
    yield "<h2>Evaluation</h2>"
    yield from _evaluation(folder)
    yield "<h2>The three parts while they learn</h2>"
    cells = [
        f'<div class="card"><h3>{title}</h3>{svg}<span class="soft">healthy: {healthy}</span></div>'
        for title, healthy, svg in charts.losses(folder)
    ]
    yield f'<div class="multiples">{"".join(cells)}</div>' if cells else _later("the second epoch of each part")
    yield "<h2>Where the time goes</h2>"
    yield _chart(charts.time_spent(folder), "the second epoch")
    yield '<p class="soft">Seconds of every epoch by phase; a part that has not started yet costs nothing.</p>'
    yield "<h2>Again</h2>"
    run = html.escape(shlex.quote(str(folder.path)))
    yield (
        f"<pre>tokendream train --resume {run}      # go on, or finish what is missing\n"
        f"tokendream eval {run} --episodes 100  # evaluate the last checkpoint\n"
        f"tokendream report {run}               # rebuild this page</pre>"
    )
    yield "<details><summary>The effective config</summary><table>"
    for name, value in _flat(dataclasses.asdict(folder.config)):
        yield f"<tr><td><code>{html.escape(name)}</code></td><td>{html.escape(str(value))}</td></tr>"
    yield "</table></details>"


def _head(folder: Folder) -> str:
    config, last = folder.config, folder.records[-1] if folder.records else {}
    epoch, steps = int(last.get("epoch", 0)), int(last.get("env_steps", 0))
    done = folder.final is not None
    state = "finished" if done else f"epoch {epoch} of {config.epochs}, running or cut"
    known = {
        "preset": config.preset,
        "seed": config.seed,
        "state": state,
        "env steps": f"{steps:,}",
        "training time": f"{last.get('seconds', 0) / 60:.1f} min",
        **{k: folder.facts[k] for k in ("device", "processor", "torch", "commit", "started") if folder.facts.get(k)},
    }
    share = 100 * epoch / config.epochs
    return (
        f"<h1>{html.escape(_short(folder))}</h1>{facts(known)}"
        f'<div class="bar"><i style="width:{share:.1f}%"></i></div>{_tiles(folder)}'
    )


def _tiles(folder: Folder) -> str:
    tiles: list[tuple[str, str]] = []
    newest = folder.final or (folder.during[-1] if folder.during else None)
    if newest:
        low, high = newest.interval
        games = f"{len(newest.scores)} games, 95% interval {_score(low)} to {_score(high)}"
        tiles.append((_score(newest.mean), f"mean score, {games}"))
        if newest.human_normalised is not None:
            tiles.append((f"{newest.human_normalised:.3f}", "human-normalised: 0 random, 1 human"))
    if folder.chance:
        tiles.append((_score(folder.chance.mean), f"random player, {len(folder.chance.scores)} games, same protocol"))
    if folder.reference:
        tiles.append((_score(folder.reference.rem), "REM as published, after 100,000 steps"))
    cells = "".join(f'<div class="tile"><b>{value}</b><span>{label}</span></div>' for value, label in tiles)
    return f'<div class="tiles">{cells}</div>' if cells else ""


def _pictures(folder: Folder) -> Iterator[str]:
    strips = [(name, folder.path / "pictures" / f"{name}.png") for name in ROWS]
    if all(path.is_file() for _, path in strips):
        rows = "".join(f'<span>{name}</span><img alt="{name}" src="{_data(p, "image/png")}">' for name, p in strips)
        yield f'<div class="card strip">{rows}</div>'
        yield (
            '<p class="soft">The dream sees the first frame; from there on it gets nothing but the actions that were '
            "really taken. Healthy: the reconstruction keeps every small moving thing, the dream drifts late.</p>"
        )
    else:
        yield _later("the first refresh of this page, some 100 env steps into training")
    shown = (
        ("dream", "really happened | reconstruction | dreamed under the same actions"),
        ("best", "the best game of the evaluation"),
        ("median", "the median game of the evaluation"),
    )
    cells = [_film(folder.path / "films" / f"{name}.mp4", caption) for name, caption in shown]
    yield f'<div class="films">{"".join(filter(None, cells))}</div>'
    if not folder.final:
        yield _later("the end of training: films of the best and of the median game")


def _film(path: Path, caption: str) -> str:
    if not path.is_file():
        return ""
    if path.stat().st_size > FILM_LIMIT:
        return f"<figure><figcaption>{caption}: films/{path.name}, too large for this page</figcaption></figure>"
    return (
        f'<figure><video autoplay loop muted playsinline controls src="{_data(path, "video/mp4")}"></video>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _evaluation(folder: Folder) -> Iterator[str]:
    rows = [(f"during training, epoch {e.protocol.get('epoch')}", e) for e in folder.during]
    rows += [(label, e) for label, e in (("final", folder.final), ("random player", folder.chance)) if e]
    if not rows:
        yield _later("the first evaluation")
        return
    yield '<div class="scroll"><table><tr><th>who</th><th class="n">games</th><th class="n">mean</th>'
    yield '<th class="n">95% interval</th><th class="n">median</th>'
    yield '<th class="n">best</th><th class="n">normalised</th></tr>'
    yield from (_row(label, e) for label, e in rows)
    yield "</table></div>"
    if folder.final:
        yield f'<div class="card">{charts.histogram(folder.final, folder.chance)}</div>'


def _row(label: str, e: Evaluation) -> str:
    low, high = e.interval
    normalised = "" if e.human_normalised is None else f"{e.human_normalised:.3f}"
    cells = (len(e.scores), _score(e.mean), f"{_score(low)} to {_score(high)}", _score(e.median),
             _score(max(e.scores)), normalised)  # fmt: skip
    return f"<tr><td>{html.escape(label)}</td>" + "".join(f'<td class="n">{c}</td>' for c in cells) + "</tr>"


def _score(value: float) -> str:
    """A score for people: four digits, but never an exponent."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _chart(svg: str | None, when: str) -> str:
    return f'<div class="card">{svg}</div>' if svg else _later(when)


def _later(when: str) -> str:
    return f'<p class="later">Appears with {when}.</p>'


def _short(folder: Folder) -> str:
    return f"{folder.config.env_name}, preset {folder.config.preset}, seed {folder.config.seed}"


def _data(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
