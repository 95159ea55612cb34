"""Figures of a run for wandb (`--log wandb`), beside TensorBoard. The package is an extra, imported when asked for."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
from pathlib import Path
from typing import Any

from tokendream.config.config import Config, leaves
from tokendream.errors import ConfigError, once, one_line
from tokendream.runfolder.folder import read_facts
from tokendream.runfolder.metrics import Record


def load() -> Any:
    """The package. Raises ConfigError, one line that says how to get it, where there is none."""
    try:
        return importlib.import_module("wandb")
    except ImportError:
        raise ConfigError("--log wandb needs a package that is not there: pip install 'tokendream[wandb]'") from None


class WandbLog:
    """A run's page there, of its folder's name in the project tokendream; a resumed run goes on with the same page.

    Its step is the epoch, so that an epoch that happens again after a cut is no second point. The first line that it
    does not take is said once, and then no more are sent: no training is lost for it.
    """

    def __init__(self, run_dir: Path, config: Config) -> None:
        """Raises ConfigError where the package is missing or cannot begin, as without a key."""
        wandb = load()
        began = f"{run_dir.name} {read_facts(run_dir).get('started', '')}"
        try:
            self._run: Any = wandb.init(
                project="tokendream",
                name=run_dir.name,
                id=hashlib.sha256(began.encode(errors="replace")).hexdigest()[:16],
                resume="allow",
                config=leaves(dataclasses.asdict(config)),
                settings=wandb.Settings(console="off"),  # what is printed stays ours
            )
        except Exception as error:  # its own kinds, which only it knows
            raise ConfigError(f"--log wandb cannot begin: {one_line(error)}") from None

    def append(self, record: Record) -> None:
        """Send the figures of an epoch."""
        self._attempt(lambda run: run.log(dict(record), step=int(record["epoch"])))

    def close(self) -> None:
        """Send what is left, and end the page's run."""
        self._attempt(lambda run: run.finish())
        self._run = None

    def _attempt(self, what: Any) -> None:
        try:
            if self._run is not None:
                what(self._run)
        except Exception as error:
            self._run = None
            once(f"nothing more is sent to wandb: {one_line(error)}")
