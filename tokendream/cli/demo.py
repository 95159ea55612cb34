"""--demo: the trained agent that the package brings, in place of a run."""

from __future__ import annotations

from pathlib import Path

from tokendream.errors import ConfigError

DEMO = Path(__file__).parents[1] / "assets" / "demo.safetensors"
"""A file as `tokendream export` writes it; assets/README.md says how it was trained."""


def chosen(run: Path | None, *, demo: bool) -> Path:
    """The run that a command is about. Raises ConfigError unless it is either named or the demo."""
    if demo == (run is not None):
        raise ConfigError(
            "Missing: the folder of a run, or --demo" if run is None else "either a run or --demo, not both"
        )
    return DEMO if run is None else run
