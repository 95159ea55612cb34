"""The SLURM path of a sweep with stand-ins for its four commands. No cluster was at hand: what is tested is what we
ask of SLURM, and that a run submitted so trains, is found again, and is stopped."""

import dataclasses
import os
import signal
import time

import pytest

from tokendream.cli.main import main
from tokendream.config.presets import TINY
from tokendream.runfolder import lock
from tokendream.sweep.engine import Engine, Resources
from tokendream.sweep.plan import plan, prepare

COMMANDS = {
    "sbatch": """#!/bin/bash
id=$((1000 + $(ls "$STAND_IN" | wc -l)))
cp "$1" "$STAND_IN/$id.sh"
SLURM_JOB_ID=$id SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_JOB_NUM_NODES=1 \\
  SLURM_JOB_NODELIST=here setsid bash "$1" > /dev/null 2>&1 < /dev/null &
echo $! > "$STAND_IN/$id.pid"
echo "Submitted batch job $id"
""",
    "srun": """#!/bin/bash
while [ "${1#--}" != "$1" ]; do
  case "$1" in --output) out=$2; shift;; --error) err=$2; shift;; esac
  shift
done
name() { echo "$1" | sed "s/%j/$SLURM_JOB_ID/; s/%t/0/"; }
exec "$@" >> "$(name "$out")" 2>> "$(name "$err")"
""",
    "sacct": """#!/bin/bash
echo "JobID|State|NodeList"
for pid in "$STAND_IN"/*.pid; do
  kill -0 "$(cat "$pid")" 2> /dev/null && state=RUNNING || state=COMPLETED
  echo "$(basename "$pid" .pid)|$state|here"
done
""",
    "scancel": """#!/bin/bash
kill -TERM -- "-$(cat "$STAND_IN/$1.pid")"
""",
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder with a copy of every script that was submitted."""
    submitted, commands = tmp_path / "submitted", tmp_path / "bin"
    submitted.mkdir()
    commands.mkdir()
    for name, text in COMMANDS.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN", str(submitted))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return submitted


@pytest.mark.slow
def test_a_sweep_on_slurm(tmp_path, slurm, capsys):
    out = tmp_path / "sweep"
    argv = ["--games", "tokendream/Catch-v0", "--seeds", "1", "--preset", "tiny", "--out", str(out)]
    code = main(["sweep", *argv, "--cluster", "slurm", "--partition", "long", "--minutes", "90", "--cores", "1"])
    assert code == 0, capsys.readouterr().out
    assert "1 of 1 runs are finished" in capsys.readouterr().out
    (script,) = slurm.glob("*.sh")
    wanted = script.read_text()
    for flag in (
        "partition=long",
        "time=90",
        "gpus-per-node=1",
        "cpus-per-task=1",
        "job-name=tokendream-Catch-v0-seed0",
    ):
        assert f"#SBATCH --{flag}\n" in wanted
    log = next((out / "jobs" / "tokendream-Catch-v0-seed0" / "1").glob("*_log.out")).read_text()
    assert "OMP_NUM_THREADS=1" in log
    assert f"train --resume {out}/runs/tokendream-Catch-v0-seed0 --time-limit 80" in log


@pytest.mark.slow
def test_a_job_is_found_again_and_stopped(tmp_path, slurm):
    """As a sweep does that was killed while its jobs went on: no second job, and scancel makes the run save."""
    long = dataclasses.replace(TINY, epochs=10_000)
    (cell,) = plan("atari100k", ["tokendream/Catch-v0"], 1, long, tmp_path)
    prepare([cell], tmp_path)
    resources = Resources(cluster="slurm", minutes=90)
    started = Engine(tmp_path, resources, jobs=0).start(cell, 0)
    assert Engine(tmp_path, resources, jobs=0).found(cell), "it may not hold its folder yet"
    deadline = time.monotonic() + 120
    while not (cell.run_dir / "metrics.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    found = Engine(tmp_path, resources, jobs=0).found(cell)
    pid = lock.holder(cell.run_dir)
    try:
        started.stop()
        while not started.done() or lock.holder(cell.run_dir) is not None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        if lock.holder(cell.run_dir):
            os.kill(pid, signal.SIGKILL)
    assert found.done()
    assert list((cell.run_dir / "checkpoints").iterdir())
    assert len(list(slurm.glob("*.sh"))) == 1
