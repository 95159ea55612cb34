"""`tokendream report`: its flags and the function that it calls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from tokendream.errors import ConfigError


@dataclass(frozen=True)
class Report:
    """Rebuild a run's page; of many runs, or a sweep, write one report: page, LaTeX tables and JSON."""

    results: tyro.conf.Positional[tuple[Path, ...]] = ()
    """A run folder, or several; a sweep; a folder of run folders."""
    published: bool = False
    """Report the published agents alone."""
    out: Path | None = None
    """Folder to write into; by default the sweep itself, else benchmark-report."""


def run(options: Report) -> int:
    from tokendream.reports.run_page import write_report

    paths = options.results
    if bool(paths) == options.published:
        raise ConfigError("report takes either folders (a run, runs, a sweep) or --published")
    if len(paths) == 1 and options.out is None and (paths[0] / "config.json").exists():
        print(write_report(paths[0]))
        return 0
    from tokendream.sweep.report.export import write_benchmark
    from tokendream.sweep.report.summary import text

    in_sweep = len(paths) == 1 and (paths[0] / "sweep.json").exists()
    out = options.out or (paths[0] if in_sweep else Path("benchmark-report"))
    print(text(write_benchmark(paths, out)))
    print(f"{out / 'report.html'} (and report.tex, report.json)")
    return 0
