"""Files that broke: whatever is changed in one, it loads or is refused in one line, soon and in little memory."""

import contextlib
import gc
import json
import shutil
import signal
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from torture import FULL, count
from torture.folders import AGENT, load_checkpoint, relist
from torture.tally import Tally

from tokendream.errors import TokendreamError
from tokendream.evaluation.evaluation import Evaluation
from tokendream.reports import charts
from tokendream.reports.export import export
from tokendream.reports.results import RunFolder
from tokendream.reports.run_page import write_report
from tokendream.runfolder import files
from tokendream.runfolder.load import Trained, read_config
from tokendream.runfolder.manifest import read_manifest
from tokendream.runfolder.metrics import read_metrics

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SECONDS = 20
"""Longer than this no loader may take for a file of some kilobytes: of processor time, or of waiting in three tries."""

SLACK = 2**20
"""Bytes that any loader may use for itself, whatever the size of its file."""


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory) -> Path:
    """A small run with an exported agent and a diagnosis."""
    run_dir = shutil.copytree(small, tmp_path_factory.mktemp("runs") / "run")
    assert export(run_dir, run_dir / AGENT, half=True) == 0
    (run_dir / "diagnosis.json").write_text(json.dumps({"format": 1, "why": ["Worst: M.", "Then: C."], "parts": []}))
    return run_dir


@dataclass(frozen=True)
class Loader:
    """A file that we read, and what reads it. `sealed` ones are listed again, as by someone who knows how."""

    name: str
    pattern: str
    load: Callable[[Path], object]
    sealed: bool = False
    plain: bool = True
    """JSON becomes Python objects, which are larger than the text; arrays do not."""

    def file(self, run_dir: Path) -> Path:
        return sorted(run_dir.glob(self.pattern))[-1]


def load_evaluation(run_dir: Path) -> None:
    Evaluation.from_json(files.read_text(run_dir / "evaluation" / "final.json"))


def load_manifest(run_dir: Path) -> None:
    read_manifest(run_dir / "checkpoints" / "epoch-000004", 4)


def load_agent(run_dir: Path) -> None:
    Trained.load(run_dir / AGENT, "cpu")


LOADERS = [
    Loader("config.json", "config.json", read_config),
    Loader("facts.json", "facts.json", RunFolder.read),
    Loader("diagnosis.json", "diagnosis.json", RunFolder.read),
    Loader("metrics.jsonl", "metrics.jsonl", lambda run_dir: read_metrics(run_dir / "metrics.jsonl")),
    Loader("evaluation JSON", "evaluation/final.json", load_evaluation),
    Loader("manifest.json", "checkpoints/epoch-000004/manifest.json", load_manifest),
    Loader("manifest.json, sealed again", "checkpoints/epoch-000004/manifest.json", load_manifest, sealed=True),
    Loader("state.json", "checkpoints/epoch-000004/state.json", load_checkpoint),
    Loader("state.json, listed again", "checkpoints/epoch-000004/state.json", load_checkpoint, sealed=True),
    Loader("tensors", "checkpoints/epoch-000004/agent.safetensors", load_checkpoint, plain=False),
    Loader("tensors, listed again", "checkpoints/epoch-000004/c*.safetensors", load_checkpoint, True, False),
    Loader("random states, listed again", "checkpoints/epoch-000004/random.safetensors", load_checkpoint, True, False),
    Loader("replay rows", "replay/rows-*", load_checkpoint, plain=False),
    Loader("replay rows, listed again", "replay/rows-*", load_checkpoint, sealed=True, plain=False),
    Loader("exported agent", AGENT, load_agent, plain=False),
    Loader("exported agent, sealed again", AGENT, load_agent, sealed=True, plain=False),
    Loader("the report of all of them", "metrics.jsonl", write_report),
    Loader("the report of all of them", "evaluation/final.json", write_report),
]


BITS = [b"9" * 30, b"9" * 5000, b"-", b'"', b"[", b"[" * 2000, b"null", b"{}", b"../", b"1e999", b"NaN", b"true",
        b"\xff", b"\0", b"\x1b[2J", b"\n", b"1e15", b"9007199254740993", b'"x"', b"-1", b"0.5"]  # fmt: skip
"""What mutations put in: numbers out of every range, other types, bytes that no text holds, ways out of a folder."""


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three changes: a byte, a piece cut out, repeated or replaced, a value replaced, the end cut off."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        a, b = sorted(rng.integers(0, len(changed) + 1, 2).tolist())
        kind = rng.integers(6)
        bit = BITS[rng.integers(len(BITS))]
        if kind == 0 and a < len(changed):
            changed[a] = rng.integers(256)
        elif kind == 1:
            del changed[a : min(b, a + 8)]
        elif kind == 2:
            changed[a:a] = changed[a : min(b, a + 4096)]
        elif kind == 3:
            changed[a:a] = bit
        elif kind == 4:
            values = [i for i, c in enumerate(changed[:4096]) if c in b":,["]
            if values:
                at = values[rng.integers(len(values))] + 1
                end = next((i for i in range(at, len(changed)) if changed[i] in b",]}\n"), at)
                changed[at:end] = bit
        elif rng.random() < 0.3:
            del changed[a:]
    return bytes(changed)


class Hang(BaseException):
    """The time limit is over. No Exception: the readers take an OSError, as TimeoutError is one, for a broken file, go
    on with the checkpoint before, and what they then hold twice looked like a file that swallows memory."""


def give_up(number: int, frame: object) -> None:
    raise Hang


def allocation(load: Callable[[Path], object], run_dir: Path, seconds: float) -> tuple[int, BaseException | None]:
    """The most that Python objects took while loading, and what was raised; Hang where it took too long.

    The collector rests, so that all garbage counts: with it, the peak of one and the same report was anything from 4.8
    to 9.7 MB (10.2 MB without), by how much had been allocated before.
    """
    gc.collect()
    gc.disable()
    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    began = time.process_time()
    tracemalloc.start()
    try:
        load(run_dir)
        raised = None
    except (Exception, Hang) as error:
        raised = error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        gc.enable()
    return peak, raised if time.process_time() - began < SECONDS else Hang()


def fuzz(run_dir: Path, loader: Loader, n: int, seed: int) -> Iterator[str]:
    """Mutate a loader's file n times; yields what became of each, or raises AssertionError."""
    rng = np.random.default_rng((seed, LOADERS.index(loader)))
    path = loader.file(run_dir)
    good = path.read_bytes()
    manifest = run_dir / "checkpoints" / "epoch-000004" / "manifest.json"
    sealed = manifest.read_bytes()
    loader.load(run_dir)  # imports and caches are no part of what a file costs
    honest, raised = allocation(loader.load, run_dir, 9 * SECONDS)
    assert raised is None
    for _ in range(n):
        data = mutated(good, rng)
        where = path
        if loader.sealed:
            try:
                where = relist(run_dir, path, data)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                path.write_bytes(data)
        else:
            path.write_bytes(data)
        # What Python objects take beyond the text is there for the honest file as well.
        allowed = honest * max(1, len(data) / len(good)) + 2 * len(data) + SLACK
        for patience in (1, 3, 9):  # what a file costs stays; an import, another thread, a machine that stalls do not
            peak, raised = allocation(loader.load, run_dir, patience * SECONDS)
            if peak <= allowed and not isinstance(raised, Hang):
                break
        if where != path:
            where.unlink()
        path.write_bytes(good)
        manifest.write_bytes(sealed)
        assert raised is None or isinstance(raised, TokendreamError | OSError), (loader.name, data[:300], repr(raised))
        said = str(raised)
        assert len(said) < 2000, (loader.name, said)
        assert peak <= allowed, (loader.name, peak, allowed, data[:300])
        yield "loaded" if raised is None else "refused"


@pytest.mark.slow
def test_mutated_files(finished, tmp_path, monkeypatch, tally: Tally):
    """In this process: a crash would end the tests, a hang is ended by an alarm."""
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    gc.freeze()  # what was there before needs not be looked through at every file
    each = -(-count(300, 10_000) // (len(LOADERS) - 2))
    outcomes: Counter[str] = Counter()
    if not FULL:
        monkeypatch.setattr(charts, "LOSSES", charts.LOSSES[::4])  # each is drawn by the same few lines
    for loader in LOADERS:
        n = each if "report" not in loader.name else count(2, 30)
        outcomes.update(fuzz(run_dir, loader, n, seed=1))
    n = outcomes.total()
    assert outcomes["refused"] > n / 4
    remark = f"{outcomes['refused']:,} refused in one line, {outcomes['loaded']:,} loaded"
    tally("files mutated", n, 0, f"{remark}, from the checkpoint before where one was hit")


def test_the_fuzzer_notices(finished, tmp_path, monkeypatch):
    """A loader that crashes, hangs or swallows memory does not get past it."""
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    good = (run_dir / "facts.json").read_bytes()

    def broken(kind: str) -> Callable[[Path], None]:
        def load(run_dir: Path) -> None:
            if (run_dir / "facts.json").read_bytes() != good:
                if kind == "crash":
                    raise KeyError("x")
                if kind == "memory":
                    bytearray(8 * 2**20)
                if kind == "garbage":
                    ring: list[object] = [bytearray(8 * 2**20)]
                    ring.append(ring)
                if kind == "hang":
                    with contextlib.suppress(OSError):
                        time.sleep(60)

        return load

    for kind in ("crash", "memory", "garbage", "hang"):
        loader = Loader("broken", "facts.json", broken(kind))
        LOADERS.append(loader)
        monkeypatch.setattr(sys.modules[__name__], "SECONDS", 0.2)
        with pytest.raises(AssertionError, match="broken"):
            list(fuzz(run_dir, loader, 20, seed=2))
        LOADERS.remove(loader)
