"""Runs into evidence: copy what a run proves into results/, and write the tables and curves that follow from it.

    python scripts/evidence.py cell cpu CrazyClimber 1 two-cores        train and collect into results/two-cores
    python scripts/evidence.py cell cpu Krull 1 two-cores --epochs 30   the same with other flags of train
    python scripts/evidence.py controls two-cores                       the same for Catch, with each link cut
    python scripts/evidence.py collect runs/A-cpu-seed1 two-cores       a finished run into results/two-cores
    python scripts/evidence.py write                                    tables and curves from results/

An interrupted cell is resumed; a finished one is only collected again. `write` rewrites what stands between
the markers of README.md and of pages of docs/, and draws docs/curves.png; the tests check that nothing else is claimed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import presets_page
import tokenizers_page
from evidence_pages import CONTROLS, RESULTS, ROOT, draw, pages

from tokendream.cli.flags import parse_train
from tokendream.config import presets
from tokendream.runfolder.folder import finished
from tokendream.runfolder.load import read_config

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
    if not finished(run_dir):
        raise ValueError(f"{run_dir} is not finished: it has no evaluation/final.json")
    target = RESULTS / device / run_dir.name
    target.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        if (run_dir / name).exists():  # not every run is diagnosed
            shutil.copyfile(run_dir / name, target / Path(name).name)
    return target


def cell(flags: Sequence[str], name: str, device: str) -> Path:
    """Train a run of that name, or what is left of it, and collect it. Raises ValueError if it stops, or if what is
    there is another run."""
    run_dir = ROOT / "runs" / name
    started = (run_dir / "config.json").exists()
    if started and read_config(run_dir) != parse_train([*flags]).config:
        raise ValueError(f"{run_dir} is a run of another config than {' '.join(flags)}: move it away")
    _tokendream("train", *(["--resume", str(run_dir)] if started else [*flags, "--run-dir", str(run_dir)]))
    return collect(run_dir, device)


def name_of(game: str, flags: Sequence[str]) -> str:
    """The folder of a cell: game, preset, the epochs where they are not the preset's, and seed."""
    config = parse_train([*flags]).config
    epochs = "" if config.epochs == presets.preset(config.preset).epochs else f"-{config.epochs}-epochs"
    return f"{game}-{config.preset}{epochs}-seed{config.seed}"


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
    for path, text in (pages() | presets_page.page() | tokenizers_page.page()).items():
        path.write_text(text)
    print(draw())


def main(argv: list[str]) -> int:
    """Run one of the commands. Returns the exit code."""
    try:
        match argv:
            case ["cell", preset, game, seed, device, *more]:
                flags = [preset, "--env", game, "--seed", seed, *more]
                print(cell(flags, name_of(game, flags), device))
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
