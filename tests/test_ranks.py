"""Several processes that train one run: the same as one, resumable to the bit, and gone together."""

import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import SHAPE, collect, rows_of
from torture.runs import Cut, Ended, digest, process

from tokendream import ranks
from tokendream.cli.main import main
from tokendream.config.config import vary
from tokendream.config.presets import TINY
from tokendream.data.replay import ReplayBuffer
from tokendream.errors import ConfigError
from tokendream.runfolder.metrics import read_metrics
from tokendream.training import broadcast, follow

RUN = ("tiny", "--epochs", "3", "--checkpoint-every", "1", "--evaluation.every", "0", "--evaluation.episodes", "1")
RUN = (*RUN, "--training.actor-critic.first-epoch", "2", "--world-model.dropout", "0.1")


def train(run_dir: Path, cuts: tuple[Cut, Cut] = (Cut(), Cut())) -> list[Ended]:
    """Begin a run of two ranks in this folder, or go on with it, as torchrun would; each is cut where it is said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    argv = ["--resume", str(run_dir)] if (run_dir / "config.json").exists() else [*RUN, "--run-dir", str(run_dir)]
    where |= {"LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}
    started = [
        process(["train", *argv], cut, env={**where, "RANK": str(i), "LOCAL_RANK": str(i)})
        for i, cut in enumerate(cuts)
    ]
    try:
        said = [each.communicate(timeout=300) for each in started]
    finally:
        for each in started:
            each.kill()
    return [Ended(each.returncode, *lines) for each, lines in zip(started, said, strict=True)]


@pytest.mark.slow
def test_ranks_compute_what_one_process_does_on_the_whole_batch():
    child = Path(__file__).with_name("ranks_child.py")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(child)]
    ended = subprocess.run(torchrun, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("equal") == 2


@pytest.mark.slow
def test_ranks_of_which_one_was_killed_go_on_as_if_it_had_not_been(tmp_path, capsys):
    """One is killed, which ends both; gone on with, the run is to the bit the one that was never cut."""
    first, other = train(tmp_path / "straight")
    assert (first.code, first.err, other) == (0, "", Ended(0, "", "")), (first, other)
    assert len(list((tmp_path / "straight/tensorboard").iterdir())) == 1
    assert [line["epoch"] for line in read_metrics(tmp_path / "straight/metrics.jsonl")] == [1, 2, 3]

    run = tmp_path / "cut"
    first, other = train(run, (Cut(), Cut("update", 6, 0, signal.SIGKILL)))
    assert (first.code, other.code) == (2, -9)
    assert first.err.count("\n") == 1
    assert "another rank of this run is gone; epoch 1 and all before it are saved" in first.err
    assert f"torchrun --nproc-per-node 2 -m tokendream train --resume {run}" in first.err
    shutil.copytree(run, tmp_path / "alone")

    assert train(run)[0].code == 0
    assert digest(run) == digest(tmp_path / "straight")

    assert main(["train", "--resume", str(tmp_path / "alone")]) == 0
    assert "begun with ranks '2', now '1'" in capsys.readouterr().out
    assert [line["epoch"] for line in read_metrics(tmp_path / "alone/metrics.jsonl")] == [1, 2, 3]


@pytest.fixture
def two(monkeypatch) -> None:
    """As if there were two ranks, of which this is the first."""
    monkeypatch.setattr(ranks, "_count", 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("training", {"world_model": TINY.training.world_model.__class__(1, 1, 1, 1e-3, 0.0, 1.0)},
         r"training.world_model.batch must be a multiple of the number of ranks \(2\), not 1"),
        ("dream", {"minibatches": 2}, r"dream.minibatches must be a divisor of a rank's dreams \(1\), not 2"),
        ("dream", {"minibatches": 4, "group": 2}, r"must be a divisor of a rank's dreams \(2\), not 4"),
        ("collect", {"capacity": 15}, r"collect.capacity must be at least collect.steps \(20\)"),
    ],
)  # fmt: skip
def test_what_ranks_cannot_share_is_refused(part, changes, said):
    with pytest.raises(ConfigError, match=said):
        follow.check(vary(TINY, part, **changes))


@pytest.mark.usefixtures("two")
def test_ranks_share_starts_and_each_the_dreams_of_its_own():
    follow.check(vary(TINY, "dream", minibatches=2, group=2))


@pytest.mark.usefixtures("two")
def test_only_train_is_for_torchrun(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "1")  # nobody to wait for
    assert main(["play", "run"]) == 2
    assert "torchrun is for train: several processes cannot share play" in capsys.readouterr().err


def test_a_rank_of_many_begins_each_update_at_a_seed_of_its_own(monkeypatch):
    generator, drawn = torch.Generator(), set()
    for number in (1, 2):
        monkeypatch.setattr(ranks, "_number", number)
        for update in (0, 1):
            ranks.seed(generator, 7, update)
            drawn |= {float(torch.rand((), generator=generator)), float(torch.rand(()))}
    assert len(drawn) == 8


def test_a_game_that_closed_is_known_to_others_where_old_rows_are_gone(monkeypatch):
    """Two environments and room for three rows: of the two that were told last, one is left."""
    replays = [ReplayBuffer(3, SHAPE, envs=2) for _ in range(2)]
    for replay in replays:
        collect(replay, 4)
    told = []
    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(ranks, "number", lambda: 0)
    monkeypatch.setattr(ranks, "broadcast_bytes", lambda data=None: told.append(data) or data)
    replays[0].close_episode(1)
    collect(replays[0], 2)
    broadcast.rows(replays[0], 4)
    monkeypatch.setattr(ranks, "number", lambda: 1)
    monkeypatch.setattr(ranks, "broadcast_bytes", lambda data=None: told.pop(0))
    assert broadcast.rows(replays[1], 4) == 6
    assert rows_of(replays[1]) == rows_of(replays[0])


def test_the_command_that_goes_on_is_that_of_each_machine(monkeypatch):
    """Sixteen ranks on two machines are eight on each."""
    monkeypatch.setattr(ranks, "count", lambda: 16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    command = "torchrun --nnodes 2 --nproc-per-node 8 -m tokendream train --resume runs/a"
    assert follow.going_on(Path("runs/a")) == command
