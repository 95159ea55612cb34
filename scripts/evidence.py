"""Runs into evidence: copy what a run proves into results/, and write the tables and curves that follow from it.

    python scripts/evidence.py cell cpu CrazyClimber 1 two-cores        train, diagnose, collect into results/two-cores
    python scripts/evidence.py controls two-cores                       the same for Catch, with each link cut
    python scripts/evidence.py collect runs/A-cpu-seed1 two-cores       a finished run into results/two-cores
    python scripts/evidence.py write                                    tables and curves from results/

A cell that was cut goes on where it was; a finished one is only collected again. `write` rewrites what stands between
the markers of README.md, docs/results.md and docs/evidence.md, and draws docs/curves.png; the tests check that
nothing else is claimed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import presets_page
from evidence_pages import CONTROLS, RESULTS, ROOT, draw, pages

COPIED = (
    "config.json",
    "facts.json",
    "metrics.jsonl",
    "diagnosis.json",
    "evaluation/final.json",
    "evaluation/random.json",
)
"""Files of a run folder that prove something; in results/ they lie side by side."""


def collect(run_dir: Path, device: str) -> Path:
    """Copy what proves something of a finished run. Raises ValueError where the run is not finished."""
    if not (run_dir / "evaluation" / "final.json").exists():
        raise ValueError(f"{run_dir} is not finished: it has no evaluation/final.json")
    target = RESULTS / device / run_dir.name
    target.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        if (run_dir / name).exists():  # not every run is diagnosed
            shutil.copyfile(run_dir / name, target / Path(name).name)
    return target


def cell(flags: Sequence[str], name: str, device: str) -> Path:
    """Train a run of that name, or what is left of it, diagnose it, and collect it. Raises ValueError if it stops."""
    run_dir = ROOT / "runs" / name
    started = (run_dir / "config.json").exists()
    _tokendream("train", *(["--resume", str(run_dir)] if started else [*flags, "--run-dir", str(run_dir)]))
    if not (run_dir / "diagnosis.json").exists():
        _tokendream("diagnose", str(run_dir))
    return collect(run_dir, device)


def train_controls(device: str) -> None:
    """Catch with every link cut in turn, three seeds each; one core each is enough."""
    for seed in (0, 1, 2):
        for control in CONTROLS:
            cut = ["--training.world-model.updates", "0"] if control == "frozen" else ["--control", control]
            cell(["toy", "--seed", str(seed), *cut], f"Catch-toy-{control}-seed{seed}", device)


def _tokendream(*argv: str) -> None:
    code = subprocess.run([sys.executable, "-m", "tokendream", *argv], check=False).returncode
    if code:
        raise ValueError(f"tokendream {' '.join(argv)} stopped with exit code {code}")


def write() -> None:
    """Bring the tables and the curves up to date with results/."""
    for path, text in (pages() | presets_page.page()).items():
        path.write_text(text)
    print(draw())


def main(argv: list[str]) -> int:
    """Run one of the commands. Returns the exit code."""
    try:
        match argv:
            case ["cell", preset, game, seed, device]:
                flags = [preset, "--env", game, "--seed", seed]
                print(cell(flags, f"{game}-{preset}-seed{seed}", device))
            case ["controls", device]:
                train_controls(device)
            case ["collect", run_dir, device]:
                print(collect(Path(run_dir), device))
            case ["write"]:
                write()
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except (ValueError, OSError) as error:
        print(f"evidence: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
