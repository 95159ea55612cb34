"""Faults while a run is under way: each stops it with one line, loses nothing that was saved, and can be resumed."""

import dataclasses
import functools
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
import safetensors.torch
import torch
from torture import FULL, count
from torture.games import FAULTS, Faulty
from torture.runs import digest, run
from torture.tally import Tally

from tokendream.agent.agent import Agent
from tokendream.cli.main import main
from tokendream.config.presets import TINY
from tokendream.config.schedule import PARTS
from tokendream.data.batch import Segment, Segments
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute, is_out_of_memory
from tokendream.envs.registry import make
from tokendream.errors import NonFiniteError, OutOfMemory
from tokendream.nn.losses import Losses
from tokendream.reports import media
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.metrics import read_metrics
from tokendream.training.phase import GradientPhase
from tokendream.training.phases import ActorCriticPhase
from tokendream.training.results import RunResults
from tokendream.training.trainer import GRADIENT_PHASES, Trainer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FLAGS = [
    "tiny",
    "--epochs",
    "4",
    "--checkpoint-every",
    "1",
    "--env-id",
    "torture.games:Faulty-v0",
    "--evaluation.every",
    "0",
    "--evaluation.episodes",
    "1",
    "--env.step-timeout",
    "0.4",
]


@pytest.fixture(autouse=True)
def _healthy(monkeypatch) -> None:
    monkeypatch.setattr(Faulty, "fault", "")
    monkeypatch.setattr(Faulty, "steps", 0)
    monkeypatch.setattr(Faulty, "at", 0)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> dict[str, str]:
    """What the run is without a fault."""
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    assert main(["train", *FLAGS, "--run-dir", str(run_dir)]) == 0
    return digest(run_dir)


def stopped(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Train until the fault; returns the one line that was said of it."""
    assert main(["train", *FLAGS, "--run-dir", str(run_dir)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert f"go on with: tokendream train --resume {run_dir}" in err
    return err


def goes_on(run_dir: Path, fault: str, straight: dict[str, str]) -> None:
    """Resumed without the fault, the run comes out as if there had been none (for every fault in `make torture`)."""
    Checkpoints(run_dir).load(say=pytest.fail)
    if not (FULL or fault in ("spin", "reset", "world_model")):
        return
    assert main(["train", "--resume", str(run_dir)]) == 0
    assert digest(run_dir) | {"files": ""} == straight | {"files": ""}  # faults/ may be there


SAID = {
    "raise": "step failed: RuntimeError: the game crashed",
    "nan": "expected a finite reward, but got nan",
    "shape": "expected an observation uint8 (64, 64, 3), but got uint8 (50, 64, 3)",
    "dtype": "but got float32",
    "none": "but got NoneType",
    "sleep": "its step did not answer within 0.4 s (env.step_timeout)",
    "spin": "its step did not answer within 0.4 s (env.step_timeout)",
    "reset": "reset failed: RuntimeError: no new game",
}


@pytest.mark.parametrize("fault", [*FAULTS, "reset"])
def test_an_environment_that_breaks_in_the_middle_of_an_episode(fault, straight, tmp_path, capsys, tally: Tally):
    Faulty.fault, Faulty.at = fault, 50  # the reset that fails is the next one
    said = stopped(tmp_path / "run", capsys)
    assert SAID[fault] in said
    assert "Faulty-v0" in said
    epoch, step = divmod(Faulty.steps - 1, 20)  # before the one that was not done
    assert f"epoch {epoch} and all before it are saved" in said
    state = Checkpoints(tmp_path / "run").load()[1].state
    assert (state["epoch"], state["phase"], state["update"]) == (epoch + 1, 0, step)
    Faulty.fault = ""
    goes_on(tmp_path / "run", fault, straight)
    tally("environment breaks: " + ", ".join(FAULTS), 1, 0)


@pytest.mark.parametrize("name", ["Native", "Stubborn"][: count(1, 2)])
def test_an_environment_that_lets_nothing_out_ends_the_process(name, tmp_path, tally: Tally):
    flags = ["--env-id", f"torture.games:{name}-v0", "--env.step-timeout", "1", "--checkpoint-every", "1"]
    tests = {"PYTHONPATH": str(Path(__file__).parent)}
    ended = run(["train", "tiny", *flags, "--run-dir", str(tmp_path / "run")], env=tests, limit=120)
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "cannot be interrupted; the last checkpoint stands" in ended.err
    assert Checkpoints(tmp_path / "run").load(say=pytest.fail)[0] == 1
    tally("environment that hangs in native code, or swallows every exception", 1, 0, "process ended, code 2")


def test_suspending_the_process_is_no_hang(tally: Tally):
    """The watch counts its own ticks, so that time in which nobody ran does not count."""
    envs = make(dataclasses.replace(TINY, env=dataclasses.replace(TINY.env, step_timeout=0.5)), 1, evaluation=False)
    envs.reset([0])
    pid = os.fork()
    if pid == 0:  # wakes us again, since we are about to stop
        time.sleep(1.5)
        os.kill(os.getppid(), signal.SIGCONT)
        os._exit(0)
    original = envs._envs.step
    envs._envs.step = lambda actions: (os.kill(os.getpid(), signal.SIGSTOP), original(actions))[1]
    assert not envs.step(np.zeros(1, np.int64)).over[0]
    os.waitpid(pid, 0)
    envs.close()
    tally("process suspended for longer than the time limit", 1, 0)


@pytest.mark.parametrize("part", PARTS)
def test_a_loss_that_is_not_finite(part, straight, tmp_path, capsys, monkeypatch, tally: Tally):
    kind = next(kind for kind in GRADIENT_PHASES if kind.name == part)
    original, calls, first = kind.loss, [], getattr(TINY.training, part).first_epoch

    def poisoned(self: GradientPhase, batch: Any) -> Losses:
        calls.append(first + len(calls) // self.settings.updates)
        losses = original(self, batch)
        if calls.count(3) == 2:
            name = next(iter(losses.terms))
            return Losses({**losses.terms, name: losses.terms[name] * float("nan")}, losses.info)
        return losses

    monkeypatch.setattr(kind, "loss", poisoned)
    said = stopped(tmp_path / "run", capsys)
    monkeypatch.setattr(kind, "loss", original)
    assert f"epoch 3, {part}, update 2: loss " in said
    path = tmp_path / "run" / "faults" / f"epoch-3-{part}-update-2.safetensors"
    assert f"the batch is in {path}" in said
    batch = safetensors.torch.load(path.read_bytes())
    assert batch.keys() == {"row", "frame", "action", "reward", "end", "mask"}
    assert batch["frame"].shape == (*batch["row"].shape, 3, 64, 64)
    _, snapshot = Checkpoints(tmp_path / "run").load(say=pytest.fail)
    assert all(t.isfinite().all() for t in snapshot.tensors["agent"].values() if t.is_floating_point())
    goes_on(tmp_path / "run", part, straight)
    tally("loss that is NaN, in each phase", 1, 0, "the batch is kept in faults/")


def trainer() -> Trainer:
    envs = make(TINY, 1, evaluation=False)
    return Trainer(
        TINY, Agent.from_config(TINY, envs.spaces), envs, ReplayBuffer(1000), Compute.resolve("cpu", "float32")
    )


def test_a_device_that_is_not_waited_for_tells_at_the_end_of_the_phase(monkeypatch, tally: Tally):
    """As on a GPU: the first update that was not finite is named, no weight is spoilt, its batch is found again."""
    draw, loss, seen = ActorCriticPhase.draw, ActorCriticPhase.loss, []

    def drawn(self: ActorCriticPhase) -> tuple[Segments, Segment]:
        segments, batch = draw(self)
        seen.append(segments.row)
        return segments, batch

    def poisoned(self: ActorCriticPhase, batch: Segment) -> Losses:
        losses = loss(self, batch)
        return Losses({k: v * float("nan") for k, v in losses.terms.items()}) if len(seen) == 1 else losses

    monkeypatch.setattr(ActorCriticPhase, "draw", drawn)
    monkeypatch.setattr(ActorCriticPhase, "loss", poisoned)
    t = trainer()
    t._guard.waits = False
    t.schedule[-1] = dataclasses.replace(t.schedule[-1], first_epoch=1)
    with pytest.raises(NonFiniteError, match="epoch 1, actor_critic, update 1: a loss or the gradient") as caught:
        t.run_epoch()
    assert len(seen) == 2
    assert torch.equal(caught.value.batch["row"], torch.from_numpy(seen[0]))
    assert all(p.isfinite().all() for p in t.agent.parameters())
    tally("loss that is NaN, found later as on a GPU", 1, 0)


def test_an_update_that_was_not_finite_is_never_saved_as_done(monkeypatch):
    """Where the device is not waited for and a checkpoint is due before the phase ends."""
    loss = ActorCriticPhase.loss
    monkeypatch.setattr(ActorCriticPhase, "loss", lambda self, batch: Losses(
        {k: v * float("nan") for k, v in loss(self, batch).terms.items()}))  # fmt: skip
    t = trainer()
    t._guard.waits = False
    t.schedule[-1] = dataclasses.replace(t.schedule[-1], first_epoch=1)
    with pytest.raises(NonFiniteError, match="epoch 1, actor_critic, update 1: a loss or the gradient"):
        t.run_epoch(progress=lambda phase, done: phase.name == "actor_critic" and t.snapshot())
    assert t._update == 1


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, MemoryError])
@pytest.mark.parametrize(
    ("phase", "field"),
    [*((part, f"training.{part}.batch ({getattr(TINY.training, part).batch})") for part in PARTS),
     ("collect", "collect.capacity (1000)")],
)  # fmt: skip
def test_no_memory_names_the_phase_and_what_to_lower(phase, field, kind, tally: Tally):
    t = trainer()
    t.epoch = 3

    def full(number: int) -> dict[str, torch.Tensor]:
        raise kind("CUDA out of memory. Tried to allocate 2 GiB")

    t.phases[phase].update = full
    with pytest.raises(OutOfMemory, match="out of memory") as caught:
        t.run_epoch()
    assert str(caught.value) == f"epoch 3, {phase}, update 1: out of memory: lower {field}"
    tally("no memory left, simulated in each phase", 1, 0)


def test_no_memory_at_the_start_and_in_a_run(tmp_path, capsys, monkeypatch, tally: Tally):
    argv = ["train", *FLAGS, "--run-dir", str(tmp_path / "a"), "--collect.capacity", "2000000000"]
    assert main(argv) == 2
    assert "lower collect.capacity (2000000000) in" in capsys.readouterr().err

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(RunResults, "_evaluate", full)
    said = stopped(tmp_path / "b", capsys)
    assert "out of memory in the evaluation" in said
    assert f"collect.capacity (1000) in {tmp_path / 'b' / 'config.json'}; epoch 4 and all" in said
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)  # what torch raises on a CPU
    tally("no memory left, at the start (24 TB asked for) and in the evaluation", 2, 0)


@pytest.mark.filterwarnings("ignore:Creating legend")  # matplotlib times itself by the clock that jumps
def test_a_clock_that_jumps(straight, tmp_path, capsys, monkeypatch, tally: Tally):
    """Days forward and back, at every reading of every clock: the run is the same, and no figure is absurd."""
    wild = random.Random(0)
    for name in ("time", "perf_counter", "monotonic"):
        real = getattr(time, name)
        monkeypatch.setattr(time, name, functools.partial(lambda real: real() + wild.uniform(-1e6, 1e6), real))
    assert main(["train", *FLAGS, "--run-dir", str(tmp_path / "run")]) == 0
    monkeypatch.undo()
    assert digest(tmp_path / "run") == straight
    out = capsys.readouterr().out
    assert "nan" not in out
    assert "-" not in out.split("trained, ")[1].split(" left")[0]
    assert all(v >= 0 for r in read_metrics(tmp_path / "run" / "metrics.jsonl") for k, v in r.items() if "seconds" in k)
    tally("clocks that jump by days at every reading", 1, 0)


def children(name: str) -> list[int]:
    """Processes of this name that this one has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = stat.read_text().split(" (", 1)
        except OSError:
            continue
        program, _, fields = rest.rpartition(") ")
        if program.startswith(name) and int(fields.split()[1]) == os.getpid():
            found.append(int(pid))
    return found


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its pipe cannot be flushed any more
def test_a_film_encoder_that_is_killed_costs_a_film(straight, tmp_path, capsys, monkeypatch, tally: Tally):
    """The only process that a run starts is ffmpeg."""
    original, killed = imageio_ffmpeg.write_frames, []

    def short_lived(*args, **kwargs):
        writer = original(*args, **kwargs)
        writer.send(None)
        yield
        for pid in children("ffmpeg"):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        while True:
            writer.send((yield))

    monkeypatch.setattr(imageio_ffmpeg, "write_frames", short_lived)
    with pytest.raises(OSError, match=r"."):
        media.write_mp4(tmp_path / "film.mp4", (np.zeros((3, 512, 512), np.uint8) for _ in range(500)))
    assert not (tmp_path / "film.mp4").exists()
    assert main(["train", *FLAGS, "--run-dir", str(tmp_path / "run")]) == 0
    assert len(killed) >= 3
    out = capsys.readouterr().out
    assert "no films: " in out
    assert "the report has no new film of a dream: " in out
    got = digest(tmp_path / "run")
    assert {k: got[k] for k in got if k != "files"} == {k: straight[k] for k in got if k != "files"}
    tally("film encoder killed", len(killed), 0, "the films are missing, the run is whole")
