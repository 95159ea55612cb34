"""Files that somebody else made, or that broke: they load or are refused in one line, and nothing else happens."""

import contextlib
import dataclasses
import functools
import gc
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
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
from torture.tally import Tally

from tokendream.agent.agent import Agent
from tokendream.cli.main import main
from tokendream.config.presets import TINY
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.envs.registry import make
from tokendream.errors import TokendreamError
from tokendream.evaluation.evaluation import Evaluation
from tokendream.nn import lpips
from tokendream.reports.results import Folder
from tokendream.reports.run_page import write_report
from tokendream.runfolder import files
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.load import read_config
from tokendream.runfolder.manifest import read_manifest
from tokendream.runfolder.metrics import read_metrics
from tokendream.training import run as experiment
from tokendream.training.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SMALL = dataclasses.replace(
    TINY,
    env=dataclasses.replace(TINY.env, size=16),
    tokenizer=dataclasses.replace(TINY.tokenizer, downsamples=3, code_width=8, codebook_size=4),
    world_model=dataclasses.replace(TINY.world_model, layers=1),
    actor_critic=dataclasses.replace(TINY.actor_critic, lstm_width=4),
)

SECONDS = 20
"""Longer than this no loader may take for a file of some kilobytes: of processor time, or of waiting in three tries."""

SLACK = 2**20
"""Bytes that any loader may use for itself, whatever the size of its file."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of a few kilobytes a file, trained to its end."""
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    assert experiment.start(SMALL, run_dir) == 0
    return run_dir


@functools.cache
def trainer() -> Trainer:
    envs = make(SMALL, 1, evaluation=False)
    replay = ReplayBuffer(SMALL.collect.capacity, (3, 16, 16))
    return Trainer(SMALL, Agent.from_config(SMALL, 3), envs, replay, Compute.resolve("cpu", "float32"))


def load_checkpoint(run_dir: Path) -> None:
    """All that a resume reads, into a trainer."""
    store = Checkpoints(run_dir)
    epoch, snapshot = store.load(say=lambda line: None)
    replay = ReplayBuffer(SMALL.collect.capacity, (3, 16, 16))
    store.load_replay(epoch, replay)
    trainer()._collector._replay = replay  # with whose rows the open game is compared
    trainer().restore(snapshot)


@dataclass(frozen=True)
class Loader:
    """A file that we read, and what reads it. `sealed` ones are listed anew, as by someone who knows how."""

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


LOADERS = [
    Loader("config.json", "config.json", read_config),
    Loader("facts.json", "facts.json", Folder.read),
    Loader("metrics.jsonl", "metrics.jsonl", lambda run_dir: read_metrics(run_dir / "metrics.jsonl")),
    Loader("evaluation JSON", "evaluation/final.json", load_evaluation),
    Loader("manifest.json", "checkpoints/epoch-000004/manifest.json", load_manifest),
    Loader("manifest.json, sealed anew", "checkpoints/epoch-000004/manifest.json", load_manifest, sealed=True),
    Loader("state.json", "checkpoints/epoch-000004/state.json", load_checkpoint),
    Loader("state.json, listed anew", "checkpoints/epoch-000004/state.json", load_checkpoint, sealed=True),
    Loader("tensors", "checkpoints/epoch-000004/agent.safetensors", load_checkpoint, plain=False),
    Loader("tensors, listed anew", "checkpoints/epoch-000004/c*.safetensors", load_checkpoint, True, False),
    Loader("random states, listed anew", "checkpoints/epoch-000004/random.safetensors", load_checkpoint, True, False),
    Loader("replay rows", "replay/rows-*", load_checkpoint, plain=False),
    Loader("replay rows, listed anew", "replay/rows-*", load_checkpoint, sealed=True, plain=False),
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


def relist(run_dir: Path, path: Path, data: bytes) -> Path:
    """Put `data` in the place of a listed file and list it properly. Returns where it lies now."""
    manifest = run_dir / "checkpoints" / "epoch-000004" / "manifest.json"
    record = json.loads(manifest.read_text())
    if path == manifest:
        record = json.loads(data)
    elif path.parent.name == "replay":
        entry = record["replay"][-1]
        path.unlink()
        entry |= vars(files.write(path, data))
        path = path.with_name(f"rows-{entry['start']:09d}-{entry['stop']:09d}-{entry['sha256'][:16]}.safetensors")
    if path.name in record["files"] or path.parent.name == "replay":
        listed = vars(files.write(path, data))
        if path.name in record["files"]:
            record["files"][path.name] = listed
    record.pop("seal", None)
    manifest.write_text(json.dumps({**record, "seal": files.seal_of(record)}))
    return path


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
def test_mutated_files(finished, tmp_path, tally: Tally):
    """In this process: a crash would end the tests, a hang is ended by an alarm."""
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    gc.freeze()  # what was there before needs not be looked through at every file
    each = -(-count(300, 10_000) // (len(LOADERS) - 2))
    outcomes: Counter[str] = Counter()
    for loader in LOADERS:
        n = each if "report" not in loader.name else count(2, 30)
        outcomes.update(fuzz(run_dir, loader, n, seed=1))
    gc.unfreeze()
    n = outcomes.total()
    assert outcomes["refused"] > n / 4
    remark = f"{outcomes['refused']:,} refused in one line, {outcomes['loaded']:,} loaded"
    tally("files mutated", n, 0, f"{remark}, from the checkpoint before where one was hit")


BIG = """
import resource, sys, numpy as np, safetensors.numpy, safetensors.torch
from pathlib import Path
from tokendream.runfolder import files
path = Path(sys.argv[1])
listed = files.FileHash(path.stat().st_size, sys.argv[2])
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) * 1024
safetensors.torch.load(safetensors.numpy.save({"x": np.zeros(3)}))
before = peak()
tensors = safetensors.torch.load(files.read(path, listed))
print((peak() - before) / path.stat().st_size)
"""


def test_a_large_file_of_tensors_takes_twice_its_size_and_a_lie_takes_nothing(tmp_path, tally: Tally):
    import safetensors.numpy

    path = tmp_path / "big.safetensors"
    listed = files.write(path, safetensors.numpy.save({c: np.ones(2**22, np.float32) for c in "abcdef"}))  # 100 MB
    ended = subprocess.run(
        [sys.executable, "-c", BIG, str(path), listed.sha256], capture_output=True, text=True, check=True
    )
    assert 1.5 < float(ended.stdout) < 2.1
    header = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    lie = files.write(path, len(header).to_bytes(8, "little") + header + bytes(64))
    ended = subprocess.run(
        [sys.executable, "-c", BIG, str(path), lie.sha256], capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30)),
    )  # fmt: skip
    assert "SafetensorError" in ended.stderr.splitlines()[-1]
    tally("tensor file that claims 4 TB", 1, 0)


class Bomb:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_malicious_pickle_under_every_name_that_is_read(finished, tmp_path, capsys, tally: Tally):
    marker = tmp_path / "unpickled"
    bomb = pickle.dumps(Bomb(marker))
    names = [p.relative_to(finished) for p in finished.rglob("*") if p.is_file() and "tensorboard" not in p.parts]
    names += [Path("checkpoints/epoch-000004/agent.pt"), Path("checkpoints/epoch-000004/agent.pkl")]
    assert len(names) > 20
    for name in names:
        run_dir = tmp_path / "run"
        shutil.copytree(finished, run_dir)
        (run_dir / name).write_bytes(bomb)
        if name.parent.name == "epoch-000004" and name.name != "manifest.json":
            relist(run_dir, run_dir / name, bomb)
        for load in (load_checkpoint, Folder.read, read_config):
            with contextlib.suppress(TokendreamError, OSError):
                load(run_dir)
        for argv in (["train", "--resume", str(run_dir)], ["report", str(run_dir)]) if FULL else ():
            assert main(argv) in (0, 2)
            assert capsys.readouterr().err.count("\n") <= 1
        assert not marker.exists(), name
        shutil.rmtree(run_dir)
    pickle.loads(bomb)
    assert marker.exists()  # it would have worked
    tally("malicious pickles", len(names), 0, "one under every file name of a run folder")


@pytest.mark.parametrize("network", ["vgg16", "alexnet"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "pickle", "gone"])
def test_damaged_lpips_weights_are_refused(network, damage, tmp_path, tally: Tally):
    name = f"lpips_{network}.safetensors"
    data = (lpips.ASSETS / name).read_bytes()
    marker = tmp_path / "unpickled"
    spoilt = {"cut": data[:-1], "flipped": data[:5000] + b"x" + data[5001:], "pickle": pickle.dumps(Bomb(marker))}
    if damage != "gone":
        (tmp_path / name).write_bytes(spoilt[damage])
    with pytest.raises(lpips.AssetError, match=name):
        lpips.LPIPS(network, tmp_path)
    assert not marker.exists()
    tally("LPIPS weights damaged", 1, 0)


@pytest.mark.parametrize(
    "name",
    [".lock", "config.json", "metrics.jsonl", "metrics.jsonl.part", "facts.json", "report.html.part", "tensorboard",
     "checkpoints", "replay", "evaluation", "films", "pictures/real.png", "evaluation/final.json.part", "faults"],
)  # fmt: skip
def test_a_link_leads_nowhere(finished, tmp_path, capsys, name, tally: Tally):
    run_dir, outside = tmp_path / "run", tmp_path / "outside"
    shutil.copytree(finished, run_dir)
    path = run_dir / name
    if path.is_dir():
        shutil.move(path, outside)
    else:
        outside.write_bytes(path.read_bytes() if path.exists() else b"precious")
        path.unlink(missing_ok=True)
    before = sorted(outside.rglob("*")) if outside.is_dir() else outside.read_bytes()
    path.symlink_to(outside)
    for argv in (["train", "--resume", str(run_dir)], ["report", str(run_dir)], ["eval", str(run_dir)]):
        assert main(argv) == 2
        err = capsys.readouterr().err
        assert f"{name} is a link" in err
        assert err.count("\n") == 1
    assert (sorted(outside.rglob("*")) if outside.is_dir() else outside.read_bytes()) == before
    tally("links out of a run folder", 1, 0, "refused, nothing read or written behind them")


def test_what_a_file_says_cannot_steer_a_terminal_or_a_page(finished, tmp_path, capsys, tally: Tally):
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    path = next((run_dir / "evaluation").glob("epoch-*"))
    data = json.loads(path.read_text())
    data["protocol"]["epoch"] = "<script>alert(1)</script>"
    path.write_text(json.dumps(data))
    assert main(["report", str(run_dir)]) == 0
    assert "<script>" not in (run_dir / "report.html").read_text()
    (run_dir / "config.json").write_text(TINY.to_json().replace('"epochs"', '"\\u001b[2Jepochs"'))
    capsys.readouterr()
    assert main(["report", str(run_dir)]) == 2
    assert "\x1b" not in capsys.readouterr().err
    tally("text that is code for a terminal or a page", 2, 0)


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
