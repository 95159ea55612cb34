"""A sweep on a real SLURM of one node, without accounting: it is preempted, refused, and left alone by its controller.
Where none can be brought up, these are skipped; test_sweep_slurm.py does the rest with a stand-in."""

import os
import signal
import subprocess
import sys
import time

import pytest
from slurm import Slurm, missing, wait_until
from test_sweep import CATCH, TOYS

from tokendream.runfolder.metrics import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]

HASTY = """
from tokendream.cli.main import entry
from tokendream.sweep import run, slurm
slurm.EVERY = run.RETRY = 1.5
entry()
"""
"""`tokendream` that looks at its jobs, and submits again, every second and a half."""

TORTURE = bool(os.environ.get("TORTURE"))


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    cluster = Slurm(tmp_path_factory.mktemp("slurm"))
    cluster.up()
    yield cluster
    cluster.down()


class Sweeping:
    """`tokendream sweep` on the cluster, of one game whose steps take a tenth of a second."""

    def __init__(self, slurm, tmp_path, game="toys:Slow-v0", *more):
        (tmp_path / "toys.py").write_text(TOYS)
        self.slurm, self.folder, self.said = slurm, tmp_path / "sweep", tmp_path / "said"
        self.name = f"{game.replace(':', '-').replace('/', '-')}-seed0"
        argv = ["sweep", "--games", game, "--seeds", "1", "--preset", "tiny", "--out", str(self.folder), *more]
        argv += ["--cluster", "slurm", "--minutes", "60", "--gpus", "0", "--cores", "1", "--sbatch", "mem=1G"]
        argv += ["--evaluation.every", "0", "--evaluation.episodes", "1"]  # in which it takes its time too
        env = {**slurm.env, "TOY_SLEEP": "0.1", "PYTHONUNBUFFERED": "1"}
        env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        with self.said.open("w") as out:
            words = [sys.executable, "-c", HASTY, *argv]
            self.process = subprocess.Popen(words, env=env, stdout=out, stderr=subprocess.STDOUT)
        slurm.sweeps.append(self.process)

    def epochs(self):
        path = self.folder / "runs" / self.name / "metrics.jsonl"
        return [record["epoch"] for record in read_metrics(path)] if path.exists() else []

    def wait_for(self, condition, seconds=240.0):
        wait_until(lambda: condition() or self.process.poll() is not None, seconds, self.said.read_text())
        assert condition(), self.said.read_text()

    def end(self, seconds=240.0):
        self.process.wait(seconds)
        return self.process.returncode, self.said.read_text()

    def states(self):
        """What the display said of the run, each change once."""
        words = [line.split(": ")[1].split(",")[0] for line in self.said.read_text().splitlines() if ": " in line]
        words = [word for word in words if word in ("waiting", "running", "finished", "failed", "stopped")]
        return [word for i, word in enumerate(words) if i == 0 or word != words[i - 1]]

    def logs(self):
        return "".join(path.read_text() for path in (self.folder / "jobs").glob("*/*/*_log.out"))

    def preempt(self):
        """Let a job of a better partition take the node, wait until it is done, and let the run have the node again.

        SLURM lets a requeued job wait for two minutes; they are cut short by hand.
        """
        self.slurm.call("sbatch", "--partition=short", "--output=/dev/null", "--wait", "--wrap=true")
        self.wait_for(lambda: self.states()[-1:] == ["waiting"])
        (job_id,) = self.slurm.call("squeue", "--me", "--noheader", "--format=%i").split()
        self.slurm.call("scontrol", "update", f"jobid={job_id}", "starttime=now")


def test_a_preempted_run_is_requeued_and_finishes_with_every_epoch_once(slurm, tmp_path):
    sweep = Sweeping(slurm, tmp_path, "toys:Slow-v0", "--epochs", "6")
    sweep.wait_for(lambda: sweep.epochs()[-1:] == [2])
    sweep.preempt()
    code, out = sweep.end()
    assert code == 0, out
    assert sweep.epochs() == [1, 2, 3, 4, 5, 6]
    assert sweep.states() in (
        ["waiting", "running", "waiting", "running", "finished"],
        ["running", "waiting", "running", "finished"],  # the first wait was over before it was seen
    )
    assert len(list((sweep.folder / "jobs" / sweep.name).iterdir())) == 1
    assert "stopped (SIGTERM)" in sweep.logs()
    assert sweep.logs().count("going on with") == 1


@pytest.mark.skipif(not TORTURE, reason="ten minutes: make torture")
def test_twenty_preemptions_lose_no_epoch(slurm, tmp_path, tally):
    times = int(os.environ.get("PREEMPTIONS", "20"))
    sweep = Sweeping(slurm, tmp_path, "toys:Slow-v0", "--epochs", str(times + 2))
    for n in range(1, times + 1):
        sweep.wait_for(lambda n=n: sweep.epochs()[-1:] >= [n])
        sweep.preempt()
    code, out = sweep.end()
    assert code == 0, out
    assert sweep.epochs() == list(range(1, times + 3))
    assert len(list((sweep.folder / "jobs" / sweep.name).iterdir())) == 1
    assert sweep.logs().count("going on with") == times
    tally("preempted and queued again by a real SLURM", times, 0, "every epoch once")


def test_a_run_that_fails_without_accounting_is_said_to_and_tried_again(slurm, tmp_path):
    for _ in range(2):
        sweep = Sweeping(slurm, tmp_path, "toys:Broken-v0")
        code, out = sweep.end()
        assert code == 1, out
        assert "the wheel came off" in out
        assert "running already" not in out


def test_a_refused_submission_is_tried_again(slurm, tmp_path):
    slurm.call("scontrol", "update", "PartitionName=long", "State=INACTIVE")
    try:
        sweep = Sweeping(slurm, tmp_path, CATCH)
        sweep.wait_for(lambda: "trying again: sbatch: error: " in sweep.said.read_text())
    finally:
        slurm.call("scontrol", "update", "PartitionName=long", "State=UP")
    code, out = sweep.end()
    assert code == 0, out
    assert sweep.epochs() == [1, 2, 3, 4]


def test_a_controller_that_is_away_for_20_seconds_ends_nothing(slurm, tmp_path):
    sweep = Sweeping(slurm, tmp_path)
    sweep.wait_for(lambda: sweep.epochs() == [1])
    slurm.end("slurmctld.pid")
    try:
        time.sleep(20)
        assert sweep.process.poll() is None
    finally:
        slurm.call("slurmctld")
    code, out = sweep.end()
    assert code == 0, out
    assert sweep.epochs() == [1, 2, 3, 4]
    assert len(list((sweep.folder / "jobs" / sweep.name).iterdir())) == 1


def test_ctrl_c_cancels_a_job_that_waits_in_seconds(slurm, tmp_path):
    slurm.call("scontrol", "update", "PartitionName=long", "State=DOWN")  # takes jobs and starts none
    try:
        sweep = Sweeping(slurm, tmp_path, CATCH)
        sweep.wait_for(lambda: "PENDING" in sweep.said.read_text())
        sweep.process.send_signal(signal.SIGINT)
        code, out = sweep.end(15)
    finally:
        slurm.call("scontrol", "update", "PartitionName=long", "State=UP")
    assert code == 130, out
    assert not slurm.call("squeue", "--me", "--noheader")


def test_sigusr2_before_the_limit_saves_and_the_run_is_submitted_again(slurm, tmp_path):
    sweep = Sweeping(slurm, tmp_path)
    sweep.wait_for(lambda: sweep.epochs() == [1])
    (job_id,) = slurm.call("squeue", "--me", "--noheader", "--format=%i").split()
    slurm.call("scancel", "--signal=USR2", job_id)
    code, out = sweep.end()
    assert code == 0, out
    assert sweep.epochs() == [1, 2, 3, 4]
    assert "stopped (SIGUSR2)" in sweep.logs()
    assert len(list((sweep.folder / "jobs" / sweep.name).iterdir())) == 2
