"""A sweep on SLURM with a stand-in for its commands: what is asked of it, and what is made of its answers.
test_slurm.py does the same on a real one, where there is one."""

import os
from pathlib import Path

import pytest
from test_sweep import trials

from tokendream.cli.flags import parse_sweep
from tokendream.stop import StopRequest
from tokendream.sweep import run, slurm
from tokendream.sweep.progress import Dashboard
from tokendream.sweep.resources import Resources
from tokendream.sweep.run import RunningSweep
from tokendream.sweep.slurm import SlurmEngine, SlurmError, call

LIMIT = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit)"


class Cluster:
    """Answers in SLURM's place. Every job goes through `life`, one state at each call of squeue, and then is gone
    from the list; where its life ends by itself, its run is finished."""

    def __init__(self, life, finishes=True):
        self.life, self.finishes = life, finishes
        self.jobs: dict[str, tuple[Path, list[tuple[str, str]]]] = {}
        self.refusals: list[tuple[str, bool]] = []  # the message, and whether the job is taken nevertheless
        self.away = 0
        self.most, self.cancelled, self.submitted = 0, [], 0

    def call(self, *words):
        if self.away:
            self.away -= 1
            raise SlurmError("slurm_load_jobs error: Unable to contact slurm controller")
        return getattr(self, words[0])(*words[1:])

    def sbatch(self, script):
        refusal, taken = self.refusals.pop(0) if self.refusals else ("", True)
        if taken:
            self.submitted += 1
            self.jobs[str(6 + self.submitted)] = Path(script), list(self.life)
        if refusal:
            raise SlurmError(refusal)
        return f"Submitted batch job {6 + self.submitted}\n"

    def squeue(self, *flags):
        assert flags[0] == "--me"
        lines = ["3|FAILED|None|/somewhere/else.sh"]
        for job_id, (script, life) in list(self.jobs.items()):
            if life:
                state, reason = life.pop(0)
                lines.append(f"{job_id}|{state}|{reason}|{script}")
            else:
                del self.jobs[job_id]
                self.end(script.parent)
        self.most = max(self.most, len(self.jobs))
        return "\n".join(lines)

    def end(self, home):
        if self.finishes:
            final = home.parents[2] / "runs" / home.parent.name / "evaluation" / "final.json"
            final.parent.mkdir()
            final.write_text("{}")

    def scancel(self, job_id):
        self.cancelled.append(job_id)
        del self.jobs[job_id]


def sweep(tmp_path, monkeypatch, cluster, n=1, jobs=0, stop=None):
    monkeypatch.setattr(slurm, "call", cluster.call)
    monkeypatch.setattr(slurm, "EVERY", -1.0)
    monkeypatch.setattr(run, "RETRY", 0.0)
    monkeypatch.setattr("shutil.which", lambda name: name)
    made = trials(tmp_path, n)
    runs = RunningSweep(made, SlurmEngine(tmp_path, Resources(cluster="slurm", minutes=60, jobs=jobs)), Dashboard(made))
    runs.go(stop or StopRequest(), poll=0.0)
    return made, runs


REQUEUED = [
    *[("PENDING", "Resources")] * 3,
    *[("RUNNING", "None")] * 3,
    ("PREEMPTED", "None"),  # passes by
    ("COMPLETING", "None"),
    *[("PENDING", "BeginTime")] * 6,
    *[("RUNNING", "None")] * 3,
    ("COMPLETED", "None"),
]


def test_a_preempted_job_waits_and_goes_on(tmp_path, monkeypatch, capsys):
    cluster = Cluster(REQUEUED)
    (made,), _ = sweep(tmp_path, monkeypatch, cluster)
    assert made.finished
    assert cluster.submitted == 1
    lines = capsys.readouterr().out.splitlines()
    states = [line.split(": ")[1].split(",")[0] for line in lines]
    assert states == ["waiting", "running", "waiting", "running", "finished"]
    assert lines[0].endswith("job 7 PENDING (Resources)")


def test_a_job_that_is_gone_from_the_list_is_over(tmp_path, monkeypatch):
    """No accounting: its exit code and its log say what became of it."""
    cluster = Cluster([("RUNNING", "None")], finishes=False)

    def end(home):
        (home / "exit_code").write_text("2\n")
        (home / "7_log.err").write_text("tokendream: the disk is full\nsrun: error: x: task 0: Exited with code 2\n")

    monkeypatch.setattr(cluster, "end", end)
    _, runs = sweep(tmp_path, monkeypatch, cluster)
    assert runs.failed == {"Catch-seed0": "the disk is full"}


def test_a_refused_job_is_tried_again_and_jobs_are_never_exceeded(tmp_path, monkeypatch, capsys):
    cluster = Cluster([("PENDING", "None"), ("RUNNING", "None"), ("RUNNING", "None")])
    cluster.refusals = [(LIMIT, False), (LIMIT, False), ("", True), (LIMIT, False)]
    made, runs = sweep(tmp_path, monkeypatch, cluster, n=4, jobs=2)
    assert all(trial.finished for trial in made)
    assert not runs.failed
    assert cluster.submitted == 4
    assert cluster.most == 2
    assert capsys.readouterr().out.count(f"waiting, and trying again: {LIMIT}") == 2


def test_a_job_whose_submission_got_no_answer_is_found(tmp_path, monkeypatch):
    cluster = Cluster([("RUNNING", "None")] * 4)
    cluster.refusals = [("sbatch: error: Socket timed out on send/recv operation", True)]
    (made,), _ = sweep(tmp_path, monkeypatch, cluster, jobs=1)
    assert made.finished
    assert (cluster.submitted, cluster.most) == (1, 1)


def test_a_job_refused_for_good_fails_and_stops_nothing_else(tmp_path, monkeypatch):
    cluster = Cluster([("RUNNING", "None")])
    cluster.refusals = [("sbatch: error: Batch job submission failed: Invalid partition name specified", False)]
    made, runs = sweep(tmp_path, monkeypatch, cluster, n=2)
    assert "Invalid partition name" in runs.failed["Catch-seed0"]
    assert [trial.finished for trial in made] == [False, True]


def test_while_the_controller_is_away_nothing_starts_and_nothing_ends(tmp_path, monkeypatch, capsys):
    cluster = Cluster([("RUNNING", "None")] * 3)
    cluster.away = 5
    squeue = cluster.squeue

    def leaving(*flags):
        answer = squeue(*flags)
        if "7|RUNNING" in answer and cluster.submitted == 1 and not leaving.left:
            leaving.left, cluster.away = True, 20
        return answer

    leaving.left = False
    monkeypatch.setattr(cluster, "squeue", leaving)
    (made,), runs = sweep(tmp_path, monkeypatch, cluster)
    assert leaving.left
    assert made.finished
    assert not runs.failed
    assert cluster.submitted == 1
    assert capsys.readouterr().out.count("trying again: slurm_load_jobs error: Unable to contact") == 2


def test_a_job_that_can_never_start_is_said_to(tmp_path, monkeypatch, capsys):
    sweep(tmp_path, monkeypatch, Cluster([("PENDING", "PartitionTimeLimit"), ("RUNNING", "None")]))
    assert "waiting, job 7 PENDING (PartitionTimeLimit): can never start as it is" in capsys.readouterr().out


def test_asked_to_stop_it_cancels_what_waits(tmp_path, monkeypatch):
    cluster, stop = Cluster([("PENDING", "Priority")] * 1000), StopRequest()
    squeue = cluster.squeue

    def stopping(*flags):
        stop.reason = "SIGINT" if cluster.submitted == 3 else None
        return squeue(*flags)

    monkeypatch.setattr(cluster, "squeue", stopping)
    monkeypatch.setattr(slurm, "HURRY", -1.0)
    _, runs = sweep(tmp_path, monkeypatch, cluster, n=3, stop=stop)
    assert cluster.cancelled == ["7", "8", "9"]
    assert not cluster.jobs
    assert not runs.failed


def test_a_job_of_an_earlier_sweep_is_found_by_its_script(tmp_path, monkeypatch, capsys):
    cluster = Cluster([("RUNNING", "None")])
    script = tmp_path / "jobs" / "Catch-seed0" / "4" / "job.sh"
    cluster.jobs["5"] = script, [("PENDING", "Priority")] * 3
    (made,), _ = sweep(tmp_path, monkeypatch, cluster)
    assert made.finished
    assert cluster.submitted == 0
    assert "Catch-seed0 is running already: waiting for it" in capsys.readouterr().out


def test_what_a_job_asks_for(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: name)
    (made,) = trials(tmp_path, 1)
    home = tmp_path / "100% home"

    def script(**more):
        asked = Resources(cluster="slurm", minutes=90, **more)
        return SlurmEngine(tmp_path, asked).script(made, home).splitlines()

    plain = script()
    for flag in ("job-name=Catch-seed0", "time=90", "gpus-per-node=1", "mem=2G", "requeue", "open-mode=append"):
        assert f"#SBATCH --{flag}" in plain
    assert "wckey" not in "\n".join(plain)
    assert f"#SBATCH '--output={tmp_path}/100%% home/%j_log.out'" in plain
    assert plain[-2].endswith(f"train --resume {made.run_dir} --time-limit 80")
    asked = script(cores=3, gpus=0, partition="long", sbatch=("mem-per-gpu=9G", "wckey=a b"), setup=("module load x",))
    for line in ("#SBATCH --partition=long", "#SBATCH --mem-per-gpu=9G", "#SBATCH '--wckey=a b'", "module load x"):
        assert line in asked
    assert not [line for line in asked if "mem=" in line or "gpus" in line]
    assert "srun --cpus-per-task=3 env PYTHONUNBUFFERED=1 OMP_NUM_THREADS=3 " in asked[-2]


def test_the_job_that_a_sweep_runs_in_is_not_handed_on(monkeypatch):
    for name in ("SLURM_MEM_PER_CPU", "SLURM_JOB_ID", "SLURM_CONF", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "1")
    names = {line.partition("=")[0] for line in call("env").splitlines()}
    assert {name for name in names if name.startswith(("SLURM", "SBATCH"))} == {"SLURM_CONF", "SBATCH_ACCOUNT"}
    assert os.environ["SLURM_JOB_ID"] == "1"


def test_a_command_that_fails_says_its_own_line():
    with pytest.raises(SlurmError, match=r"^sbatch: error: no$"):
        call("bash", "-c", "echo 'sbatch: error: no' >&2; echo 'Try --help' >&2; exit 1")
    with pytest.raises(SlurmError, match="No such file"):
        call("/nowhere/squeue")


def test_sbatch_and_setup_may_be_repeated():
    argv = ["--preset", "tiny", "--cluster", "slurm", "--minutes", "60"]
    asked = parse_sweep([*argv, "--sbatch", "mem=1G", "--setup", "module load a", "--sbatch=qos=b"]).resources
    assert (asked.sbatch, asked.setup) == (("mem=1G", "qos=b"), ("module load a",))
