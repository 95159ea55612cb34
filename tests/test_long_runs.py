"""What hours bring: memory, handles and threads that do not grow, disks that fill, replays that are large."""

import dataclasses
import gc
import os
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torture import FULL, count
from torture.runs import digest, train
from torture.tally import Tally

from tokendream.agent.agent import Agent
from tokendream.config.presets import REM, TINY
from tokendream.data.replay import ReplayBuffer
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.snapshot import Snapshot
from tokendream.training import run as experiment

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

QUICK_DISK = [14_000]
FULL_DISK = [200, 3_000, 9_500, 12_000, 14_000, 18_000]
"""Kilobytes of disks, on which a run of FLAGS with its 20 MB gets less or more far."""


def usage() -> tuple[float, int, int]:
    """Megabytes resident, file handles and threads of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20, len(os.listdir("/proc/self/fd")), threading.active_count()


def test_nothing_grows(tmp_path, monkeypatch, tally: Tally):
    """Epochs with all that belongs to one: collecting, updates, evaluation, checkpoint, log, report."""
    epochs, warm = count(10, 150), count(5, 50)  # the heap settles over dozens of epochs; a leak goes on after that
    config = dataclasses.replace(
        TINY,
        epochs=epochs,
        checkpoint_every=1,
        collect=dataclasses.replace(TINY.collect, capacity=60),
        evaluation=dataclasses.replace(TINY.evaluation, every=1, episodes=1, episodes_during=1),
    )
    seen: list[tuple[float, int, int]] = []
    save = experiment.Run._save

    def watched(run: experiment.Run) -> None:
        save(run)
        if run._trainer.epoch % 5 == 0:
            run._results.report()
        seen.append(usage())

    monkeypatch.setattr(experiment.Run, "_save", watched)
    assert experiment.start(config, tmp_path / "run") == 0
    memory, handles, threads = (np.array(column) for column in zip(*seen, strict=True))
    assert len(memory) == epochs
    assert np.ptp(handles[warm:]) <= 1, handles
    assert np.ptp(threads[warm:]) <= 1, threads
    grown = memory[-3:].mean() - memory[warm : warm + 3].mean()
    assert grown < 25, memory
    tally(
        "epochs in one process", epochs, 0,
        f"from epoch {warm} to {epochs} memory {memory[warm]:.0f} to {memory[-1]:.0f} MiB, handles {handles[warm]} to "
        f"{handles[-1]}, threads {threads[warm]} to {threads[-1]}",
    )  # fmt: skip


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on which a small file system can be mounted, and is unmounted at the end."""
    path = tmp_path / "disk"
    path.mkdir()
    yield path
    while os.path.ismount(path):
        subprocess.run(["umount", str(path)], check=True)


def mount(path: Path, kilobytes: int) -> None:
    options = f"size={kilobytes}k"
    remount = [] if not os.path.ismount(path) else ["-o", "remount"]
    command = ["mount", "-t", "tmpfs", *remount, "-o", options, "tmpfs", str(path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")


@pytest.mark.parametrize("kilobytes", FULL_DISK if FULL else QUICK_DISK)
def test_a_full_disk_stops_the_run_and_more_room_lets_it_go_on(disk, straight, kilobytes, tally: Tally):
    mount(disk, kilobytes)
    run_dir = disk / "run"
    ended = train(run_dir)
    assert ended.code == 2, ended.out
    assert ended.err.count("\n") == 1, ended.err
    assert "disk is full" in ended.err or "No space left" in ended.err
    store = Checkpoints(run_dir)
    if store.epochs():
        store.load(say=pytest.fail)
    mount(disk, 60_000)
    ended = train(run_dir)
    assert ended.code == 0, ended.err
    assert digest(run_dir) == straight
    tally("disk full (tmpfs)", 1, 0, "stopped with one line; with more room, the same run to the bit")


def test_a_limit_on_file_sizes_is_a_full_disk_too(tmp_path, tally: Tally):
    """Where nothing may be mounted: no file may grow beyond a megabyte."""
    ended = train(
        tmp_path / "run", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)), limit=120
    )
    assert ended.code == 2
    assert ended.err.count("\n") == 1, ended.err
    assert "File too large" in ended.err
    assert "nothing was saved yet" in ended.err
    assert not FULL or train(tmp_path / "run").code == 0
    tally("file size limited", 1, 0)


@pytest.mark.skipif(not FULL, reason="writes 1.5 GB: make torture")
def test_checkpoints_of_100_000_frames(tmp_path, tally: Tally):
    """At the paper's sizes: the weights and moments of `rem`, a full replay, 2,000 new rows between two checkpoints."""
    if shutil.disk_usage(tmp_path).free < 4e9:
        pytest.skip("needs 4 GB of disk")
    agent = Agent.from_config(REM, 18)
    tensors = {"agent": agent.state_dict()}
    for name in ("tokenizer", "world_model", "actor_critic"):
        parts = [p.detach() for p in getattr(agent, name).parameters() if p.requires_grad]
        moments = {f"{i}.{m}": p for i, p in enumerate(parts) for m in ("exp_avg", "exp_avg_sq")}
        tensors[f"optimiser.{name}"] = moments
    snapshot = Snapshot(tensors, {"epoch": 1})
    replay, store = ReplayBuffer(100_000), Checkpoints(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (64, 3, 64, 64), dtype=np.uint8)

    def collect(rows: int) -> None:
        for _ in range(rows):
            i = replay.total
            replay.add(noise[i % 64], i % 18, 0.0, i % 1000 == 999, i % 1000 == 999)

    def seconds() -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        store.save(replay.total, snapshot, replay)
        return time.perf_counter() - wall, time.process_time() - cpu

    collect(100_000)
    first = seconds()
    stalls = []
    for _ in range(5):
        collect(2_000)
        stalls.append(seconds())
    wall, cpu = (sorted(column)[2] for column in zip(*stalls, strict=True))
    size = sum(t.nbytes for group in tensors.values() for t in group.values()) / 1e6
    assert cpu < 5
    torch.set_num_threads(1)
    tally(
        "checkpoints of 100,000 frames", 6, 0,
        f"each {size:.0f} MB of weights and moments and 2,000 new rows (25 MB): median {wall:.1f} s ({cpu:.1f} s CPU), "
        f"longest {max(stalls)[0]:.1f} s; all rows at once {first[0]:.1f} s ({first[1]:.1f} s CPU)",
    )  # fmt: skip
