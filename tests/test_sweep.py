"""A sweep as a user meets it: cut, killed, gone on with; what fails is said and stops nothing else."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from tokendream.cli.main import main
from tokendream.config.presets import TINY
from tokendream.errors import ConfigError
from tokendream.runfolder import lock
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.metrics import read_metrics
from tokendream.runfolder.snapshot import Snapshot
from tokendream.stop import StopRequest
from tokendream.sweep.engine import End, Status
from tokendream.sweep.local import LocalEngine
from tokendream.sweep.plan import Trial, expected, prepare
from tokendream.sweep.progress import Dashboard, LiveDashboard, progress
from tokendream.sweep.resources import Resources
from tokendream.sweep.run import RunningSweep, sweep

CATCH = "tokendream/Catch-v0"

TOYS = """
import os, time
import gymnasium, numpy as np
from gymnasium import spaces

class Slow(gymnasium.Env):
    observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = spaces.Discrete(2)
    broken = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros((64, 64, 3), np.uint8), {}

    def step(self, action):
        time.sleep(float(os.environ["TOY_SLEEP"]))
        self.t += 1
        if self.broken and self.t == 3:
            raise RuntimeError("the wheel came off")
        return np.full((64, 64, 3), 9 * self.t, np.uint8), 1.0, self.t == 5, False, {}

class Broken(Slow):
    broken = True

gymnasium.register("Slow-v0", entry_point=Slow, disable_env_checker=True)
gymnasium.register("Broken-v0", entry_point=Broken, disable_env_checker=True)
"""


def wait_until(condition, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_sweep_that_is_killed_and_stopped_is_completed_by_the_same_command(tmp_path):
    """Two toy games, two seeds each. Killed with -9 its runs live on; the next sweep finds them, and Ctrl-C makes
    them save; the third finishes what is left and repeats nothing, beside a game that breaks."""
    (tmp_path / "toys.py").write_text(TOYS)
    folder = tmp_path / "sweep"
    run = {name: folder / "runs" / name for name in ("tokendream-Catch-v0-seed0", "tokendream-Catch-v0-seed1",
                                                      "toys-Slow-v0-seed0", "toys-Slow-v0-seed1")}  # fmt: skip
    slow = [path for name, path in run.items() if "Slow" in name]

    said = tmp_path / "said"  # no pipe: runs that outlive their sweep would hold it open

    def start(sleep, *more):
        argv = ["sweep", "--games", CATCH, "toys:Slow-v0", *more, "--seeds", "2", "--preset", "tiny"]
        argv += ["--jobs", "2", "--cores", "1", "--out", str(folder)]
        env = {**os.environ, "PYTHONPATH": str(tmp_path), "TOY_SLEEP": sleep, "PYTHONUNBUFFERED": "1"}
        with said.open("w") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "tokendream", *argv], env=env, stdout=out, stderr=subprocess.STDOUT
            )

    def end(process):
        process.wait(180)
        return process.returncode, said.read_text()

    first = start("0.5")
    wait_until(lambda: all((path / "metrics.jsonl").exists() and read_metrics(path / "metrics.jsonl") for path in slow))
    first.kill()
    first.wait()
    finals = {name: path / "evaluation" / "final.json" for name, path in run.items()}
    catch = {name: path.stat().st_mtime_ns for name, path in finals.items() if "Catch" in name}
    assert all(lock.holder(path) for path in slow), "the runs live on"

    second = start("0.5")
    wait_until(lambda: said.read_text().count("is running already") == 2)
    second.send_signal(signal.SIGINT)
    code, out = end(second)
    assert code == 130, out
    assert "2 of 4 runs are finished, 0 failed" in out
    assert "the same command goes on" in out
    for path in slow:
        assert lock.holder(path) is None
        assert list((path / "checkpoints").iterdir()), "it saved before it ended"
        assert not (path / "evaluation" / "final.json").exists()

    third = start("0", "toys:Broken-v0")
    code, out = end(third)
    assert code == 1, out
    assert "4 of 6 runs are finished, 2 failed" in out
    assert "toys-Broken-v0-seed0: " in out
    assert "the wheel came off" in out
    assert "Traceback" not in out
    assert {name: finals[name].stat().st_mtime_ns for name in catch} == catch, "no finished run is repeated"
    for name, path in run.items():
        assert [r["epoch"] for r in read_metrics(path / "metrics.jsonl")] == [1, 2, 3, 4]
        assert json.loads((path / "facts.json").read_text())["device"]
        jobs = sorted((folder / "jobs" / name).iterdir())
        log = next(jobs[-1].glob("*_log.out")).read_text()
        assert len(jobs) == (2 if "Slow" in name else 1)
        assert ("going on with" in log) == ("Slow" in name)
    assert dict(expected(folder))["toys-Slow-v0-seed1"] == ("toys:Slow-v0", 1)


class Scripted:
    """A job that ends when it is told to."""

    def __init__(self, trial, code=0, word="", err="", finishes=True, epochs=0, updates=0):
        self.trial, self.code, self.word, self.err = trial, code, word, err
        self.finishes, self.epochs, self.updates, self.looks, self.asked = finishes, epochs, updates, 0, 0

    def status(self):
        self.looks += 1
        if self.looks < 2:
            return Status("running")
        with (self.trial.run_dir / "metrics.jsonl").open("a") as file:
            for epoch in range(1, self.epochs + 1):
                file.write(json.dumps({"epoch": epoch, "env_steps": 20 * epoch}) + "\n")
        if self.updates:
            Checkpoints(self.trial.run_dir).save(0, Snapshot({}, {"phase": 2, "update": self.updates}), None)
        if self.finishes:
            (self.trial.run_dir / "evaluation").mkdir()
            (self.trial.run_dir / "evaluation" / "final.json").write_text("{}")
        return Status("over")

    def stop(self):
        self.asked, self.finishes = self.asked + 1, False

    def end(self):
        (self.trial.run_dir / "err").write_text(self.err)
        return End(self.code, self.word, self.trial.run_dir / "err")


class Fake:
    """Starts scripted jobs and remembers how many at a time, and in which slots."""

    def __init__(self, jobs, script=None):
        self.jobs, self.script = jobs, script or {}
        self.started, self.slots = [], []

    def trouble(self):
        return ""

    def found(self, trial):
        return None

    def start(self, trial, slot):
        outcomes = self.script.get(trial.name, [{}])
        job = Scripted(trial, **outcomes[min(sum(c is trial for c, _ in self.started), len(outcomes) - 1)])
        self.started.append((trial, job))
        self.slots.append(slot)
        return job


def trials(tmp_path, n=4):
    made = [Trial(dataclasses.replace(TINY, seed=i), tmp_path / "runs" / f"Catch-seed{i}") for i in range(n)]
    prepare(made, tmp_path)
    return made


def test_no_more_runs_at_a_time_than_asked_for(tmp_path, capsys):
    made, engine = trials(tmp_path, 5), Fake(jobs=2)
    RunningSweep(made, engine, Dashboard(made)).go(StopRequest(), poll=0.0)
    assert [trial for trial, _ in engine.started] == made
    assert set(engine.slots) == {0, 1}
    assert all(trial.finished for trial in made)
    assert capsys.readouterr().out.count(": finished") == 5


def test_a_failure_is_said_and_stops_nothing(tmp_path, capsys):
    failing = [{"finishes": False, "code": 2, "err": "tokendream: the disk is full\nsrun: error: task 0: Exited\n"}]
    made, engine = trials(tmp_path), Fake(2, {"Catch-seed1": failing})
    runs = RunningSweep(made, engine, Dashboard(made))
    runs.go(StopRequest(), poll=0.0)
    assert runs.failed == {"Catch-seed1": "the disk is full"}
    assert [trial.finished for trial in made] == [True, False, True, True]
    assert "Catch-seed1 failed: the disk is full (log: " in capsys.readouterr().out


@pytest.mark.parametrize("end", [{"code": 0}, {"code": 140}, {"code": None, "word": "TIMEOUT"}])
def test_a_run_out_of_time_is_queued_again_while_it_moves(tmp_path, end):
    """By its exit code or SLURM's word, never by its log."""
    late = {**end, "finishes": False, "err": "tokendream: words\n"}
    made = trials(tmp_path, 3)
    within = [{**late, "updates": 7}, {**late, "updates": 9}, {**late, "updates": 9}]
    engine = Fake(1, {"Catch-seed0": [{**late, "epochs": 3}, {}], "Catch-seed1": [late], "Catch-seed2": within})
    runs = RunningSweep(made, engine, Dashboard(made))
    runs.go(StopRequest(), poll=0.0)
    assert [trial.config.seed for trial, _ in engine.started] == [0, 1, 2, 0, 2, 2]
    assert made[0].finished
    assert runs.failed == dict.fromkeys(("Catch-seed1", "Catch-seed2"), "out of time, without an update done")


@pytest.mark.parametrize("word", ["PREEMPTED", "NODE_FAIL"])
def test_a_run_whose_machine_was_taken_away_is_queued_again(tmp_path, word):
    made = trials(tmp_path, 1)
    engine = Fake(1, {"Catch-seed0": [{"code": 143, "word": word, "finishes": False}, {}]})
    RunningSweep(made, engine, Dashboard(made)).go(StopRequest(), poll=0.0)
    assert len(engine.started) == 2
    assert made[0].finished


def test_finished_runs_are_not_started(tmp_path):
    made = trials(tmp_path)
    (made[2].run_dir / "evaluation").mkdir()
    (made[2].run_dir / "evaluation" / "final.json").write_text("{}")
    engine = Fake(4)
    RunningSweep(made, engine, Dashboard(made)).go(StopRequest(), poll=0.0)
    assert [trial.config.seed for trial, _ in engine.started] == [0, 1, 3]


def test_asked_to_stop_it_starts_nothing_and_asks_every_run(tmp_path):
    made, engine = trials(tmp_path), Fake(2)
    stop = StopRequest()

    class Interrupting(Dashboard):
        def show(self, states, notes):
            stop.reason = "SIGINT"

    RunningSweep(made, engine, Interrupting(made)).go(stop, poll=0.0)
    assert len(engine.started) == 2
    assert all(job.asked for _, job in engine.started)


@pytest.mark.parametrize(
    ("code", "word", "err", "line"),
    [
        (1, "", "Traceback\n  File\nRuntimeError: a bug\n", "RuntimeError: a bug"),
        (2, "FAILED", "tokendream: no such game\nsrun: error: task 0: Exited with exit code 2\n", "no such game"),
        (-9, "", "", "killed by SIGKILL (out of memory?)"),
        (137, "", "", "killed by SIGKILL (out of memory?)"),
        (139, "", "", "killed by SIGSEGV"),
        (130, "", "a line", "stopped (SIGINT)"),
        (143, "CANCELLED", "", "stopped (SIGTERM)"),
        (None, "CANCELLED", "", "ended by SLURM: CANCELLED"),
        (None, "OUT_OF_MEMORY", "", "ended by SLURM: OUT_OF_MEMORY"),
        (None, "", "", "ended without a word"),
        (None, "TIMEOUT", "", "out of time"),
        (0, "", "", "out of time"),
    ],
)
def test_why_a_run_ended(tmp_path, code, word, err, line):
    (tmp_path / "err").write_text(err)
    assert End(code, word, tmp_path / "err").why() == line


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["atari100"], "unknown suite 'atari100'; nearest: atari100k"),
        (["--games", "Brekout"], "unknown game 'Brekout'; nearest of Atari 100K: Breakout"),
        (["--games", "Tetris"], "unknown game 'Tetris'"),
        (["--games", "tokendream/Cach-v0"], "tokendream/Catch-v0"),
        (["--games", ","], "no game is named"),
        (["--games", CATCH, "--seeds", "0"], "seeds must be at least 1, not 0"),
        (["--games", "Pong", "--games", CATCH], "name all games after one, as in --games Pong Boxing"),
        (["--games", CATCH, "--seed", "3"], "a sweep has no --seed: it takes --games and --seeds"),
        (["--games", CATCH, "--gmaes", "3"], "unknown flag --gmaes; nearest: --games"),
        (["--games", CATCH, "--jobs", "-1"], "jobs must be at least 0, not -1"),
        (["--games", CATCH, "--device", "cuda:1"], "device must be auto, cpu or cuda, not 'cuda:1'"),
        (["--games", CATCH, "--cluster", "slrum"], "invalid choice 'slrum' for argument '--cluster'"),
        (["--games", CATCH, "--cluster", "slurm", "--minutes", "5"], "minutes must be at least 20"),
        (["--games", CATCH, "--cluster", "slurm", "--minutes", "60"], "there is no sbatch here"),
        (["--games", CATCH, "--partition", "gpu"], "partition, minutes, sbatch and setup are for --cluster slurm"),
        (["--games", CATCH, "--sbatch", "qos=a"], "partition, minutes, sbatch and setup are for --cluster slurm"),
        (["--games", CATCH, "--cluster", "slurm", "--minutes", "60", "--sbatch", "Qos=a"], "without its dashes"),
        (["--games", CATCH, "--cluster", "slurm", "--minutes", "60", "--sbatch", "time=5"], "sets array, error"),
        (["--games", CATCH, "--cluster", "slurm", "--minutes", "60", "--partition", "a b"], "a plain name"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["sweep", *argv, "--preset", "tiny"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_two_sweeps_do_not_share_a_folder(tmp_path, capsys):
    with lock.hold(tmp_path, "taken"):
        assert main(["sweep", "--games", CATCH, "--preset", "tiny", "--out", str(tmp_path)]) == 2
    assert "another sweep is running in" in capsys.readouterr().err


def test_a_lock_says_who_holds_it(tmp_path):
    assert lock.holder(tmp_path) is None
    with lock.hold(tmp_path, "taken"):
        assert lock.holder(tmp_path) == os.getpid()
        with pytest.raises(ConfigError, match="taken"), lock.hold(tmp_path, "taken"):
            pass
        assert lock.holder(tmp_path) == os.getpid()
        (tmp_path / lock.NAME).write_text("12 another-machine")
        assert lock.holder(tmp_path) == 0
    assert lock.holder(tmp_path) is None


def test_what_is_started_is_a_command(tmp_path, monkeypatch):
    (made,) = trials(tmp_path, 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    engine = LocalEngine(tmp_path, Resources())
    assert engine.jobs == 2
    words = engine.command(made, slot=3)
    assert words[0] == "env"
    assert "CUDA_VISIBLE_DEVICES=6" in words
    assert words[-4:] == ["tokendream", "train", "--resume", str(made.run_dir)]
    assert Path(words[-6]).name.startswith("python")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(7)), raising=False)
    assert "OMP_NUM_THREADS=3" in LocalEngine(tmp_path, Resources(jobs=2)).command(made, 0)
    assert "OMP_NUM_THREADS=2" in LocalEngine(tmp_path, Resources(cores=2, jobs=2)).command(made, 0)


def test_progress_of_a_run():
    records = [
        {"epoch": e, "env_steps": 20 * e, "collect/updates_per_s": 10.0, "collect/return": float(e)} for e in (1, 2, 3)
    ]
    records.append({"epoch": 4, "env_steps": 80, "collect/return": None})
    config = dataclasses.replace(TINY, epochs=9)
    at = progress(config, records)
    assert (at.epoch, at.env_steps, at.last_return) == (4, 80, 3.0)
    assert at.left == "more than 10s left"  # five epochs of 20 steps at 10 a second; the other phases were never timed
    assert progress(TINY, records).left == "evaluating"
    assert progress(TINY, []).epoch == 0


def test_the_table_shows_what_runs_first(tmp_path):
    made = trials(tmp_path, 3)
    (made[1].run_dir / "metrics.jsonl").write_text(
        '{"epoch": 2, "env_steps": 1240, "collect/return": -3.5, "collect/updates_per_s": 10.0}\n'
    )
    screen = io.StringIO()
    board = LiveDashboard(made, Console(file=screen, force_terminal=True, color_system=None, width=150, height=30))
    states = {made[0].name: "waiting", made[1].name: "running", made[2].name: "finished"}
    board.show(states, {made[0].name: "job 7 PENDING (Priority)"})
    board.say("a line [that] stays")
    board.close()
    out = screen.getvalue()
    assert "a line [that] stays" in out
    rows = [line.split() for line in out.splitlines() if line.startswith(CATCH)][-3:]  # as it was drawn last
    assert [row[2] for row in rows] == ["running", "finished", "waiting"]
    assert " ".join(rows[2]).endswith("job 7 PENDING (Priority)")
    assert rows[0][1:6] == ["1", "running", "2/4", "1,240", "-3.5"]
    assert "3 runs: 1 waiting, 1 running, 1 finished" in out


def test_a_sweep_that_does_not_begin_leaves_the_terminal_as_it_is(tmp_path):
    made, screen = trials(tmp_path, 1), io.StringIO()
    board = LiveDashboard(made, Console(file=screen, force_terminal=True))
    with lock.hold(tmp_path, "taken"), pytest.raises(ConfigError, match="another sweep"):
        sweep(made, tmp_path, Fake(1), board, again="")
    assert screen.getvalue() == ""  # a cursor that is hidden would stay so


def test_a_run_on_another_machine_is_not_waited_for(tmp_path):
    (made,) = trials(tmp_path, 1)
    with lock.hold(made.run_dir, "taken"):
        (made.run_dir / lock.NAME).write_text("1 another-machine")
        job = LocalEngine(tmp_path, Resources(jobs=1)).found(made)
        assert job.status().state == "running"
        job.stop()
        assert job.status().state == "over"
    assert LocalEngine(tmp_path, Resources(jobs=1)).found(made) is None
