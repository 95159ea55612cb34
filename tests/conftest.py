"""Every test runs with shapes and types checked: jaxtyping's annotations are enforced by beartype (`checking`)."""

import contextlib
import gc
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; more threads than cores crawl
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a hundred processes would compile the package again
if not os.environ.get("GPU_TESTS"):  # as `bench gpu` sets it
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a run that is compared to the bit is one on a CPU

import checking

# A copy of the hook's handle must live as long as the tests; modules imported after this line are checked, but for
# those of tests that are run a second time, in a process of their own.
HOOK = None if os.environ.get("UNCHECKED") else checking.install()

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from torture.tally import Tally, finish, merge  # noqa: E402

BEGAN = pytest.StashKey[float]()

with contextlib.suppress(ModuleNotFoundError):  # `test_install` takes the kernels away
    from tokendream.evaluation.diagnosis import world
    from tokendream.kernels import machine
    from tokendream.reports import diagnose, pictures

    machine.calibration()  # compiled and measured here if it is nowhere yet: no test waits for it, and none says so
    # Most of the time of a test that measures an agent, or shows what it dreams, would go there.
    diagnose.BATCH, diagnose.DISTANCES, world.DISTANCES, pictures.LENGTH = 8, (1, 2, 5), (1, 2, 5), 8

DRAWN = ("test_report", "test_mutated_files", "test_long_runs", "test_hostile_files")
"""Tests of a run's report as it is; in those of the others that make one in this process its charts are empty."""


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    checking.CHECKED.clear()


@pytest.fixture(autouse=True)
def _charts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.module.__name__ not in DRAWN and "tokendream.reports.run_page" in sys.modules:
        monkeypatch.setattr("tokendream.reports.run_page.svg", lambda *_: "<svg></svg>")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The hashes of the run of `torture.runs.FLAGS` when nothing happens to it."""
    from torture.runs import digest, train

    run_dir = tmp_path_factory.mktemp("straight") / "run"
    ended = train(run_dir)
    assert ended.code == 0, ended.err
    return digest(run_dir)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of preset tiny, trained to its end; a test that trains or spoils takes a copy."""
    from tokendream.config.presets import TINY

    return trained(TINY, tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few kilobytes a file, trained to its end; whoever changes it takes a copy."""
    from torture.folders import SMALL

    return trained(SMALL, tmp_path_factory.mktemp("small") / "run")


def trained(config: Any, run_dir: Path) -> Path:
    from tokendream.training import run

    assert run.start(config, run_dir) == 0
    return run_dir


@pytest.fixture
def tally() -> Tally:
    """Where a test says what it tried, for the table that `make torture` writes."""
    return Tally()


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[BEGAN] = time.monotonic()


def pytest_sessionfinish(session: pytest.Session) -> None:
    finish(session, session.config.stash[BEGAN])


def pytest_collection_finish() -> None:
    """What was imported needs not be looked through whenever a test collects garbage, which took a second each time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    merge(getattr(node, "workeroutput", {}))  # a worker that was killed has none


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first in each half of the order: two workers start with a half each, and none waits for the other."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    fast = [item for item in items if not item.get_closest_marker("slow")]
    half = len(fast) // 2
    items[:] = slow[::2] + fast[:half] + slow[1::2] + fast[half:]
