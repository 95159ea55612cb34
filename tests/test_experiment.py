"""A run as a user meets it: folders, evaluation, report, being cut and going on, and what is refused."""

import dataclasses
import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch

from tokendream.agent.agent import AgentPolicy
from tokendream.cli.main import main
from tokendream.config.presets import TINY
from tokendream.device import kind_of_processor, processor
from tokendream.envs.vector import EnvError
from tokendream.errors import ConfigError
from tokendream.evaluation.evaluation import Evaluation, evaluate
from tokendream.evaluation.games import random_player
from tokendream.kernels.install import describe
from tokendream.reports import evaluate as filming
from tokendream.runfolder import folder as runfolder
from tokendream.runfolder import lock
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.folder import commit, free_name
from tokendream.runfolder.load import Trained, read_config
from tokendream.runfolder.metrics import read_metrics
from tokendream.spaces.actions import Discrete
from tokendream.stop import Stopped
from tokendream.training import results, timing
from tokendream.training import run as experiment

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_a_finished_run_holds_what_it_promises(finished):
    assert [r["epoch"] for r in read_metrics(finished / "metrics.jsonl")] == [1, 2, 3, 4]
    assert read_config(finished) == TINY
    assert Checkpoints(finished).epochs() == [4, 2]
    for name, games in (("final", 2), ("random", 2), ("epoch-000002", 2)):
        result = Evaluation.from_json((finished / "evaluation" / f"{name}.json").read_text())
        assert len(result.scores) == games
    for film in ("best", "median", "dream"):
        assert (finished / "films" / f"{film}.mp4").stat().st_size > 500
    page = (finished / "report.html").read_text()
    assert "tokendream/Catch-v0" in page
    assert any((finished / "tensorboard").iterdir())
    facts = json.loads((finished / "facts.json").read_text())
    assert facts["device"].startswith("CPU")
    assert facts["processor"] == processor() != ""
    assert facts["kind"] == kind_of_processor(torch.device("cpu"))
    assert f"processor <b>{html.escape(processor())}</b>" in page
    assert facts["deterministic"] == "yes"
    assert 0 < 60 * float(facts["minutes"]) < 3600 > 3600 * float(facts["core_hours"])


def test_what_a_run_cost_is_that_of_all_its_epochs(tmp_path):
    (tmp_path / "facts.json").write_text('{"device": "CPU"}')
    costs = []
    for seconds, cpu in ((600.0, 1000.0), (600.0, 1005.0), (900.0, 1500.0), (1200.0, None)):
        runfolder.note_cost(tmp_path, seconds, cpu)
        facts = json.loads((tmp_path / "facts.json").read_text())
        costs.append((facts["minutes"], facts.get("core_hours")))
    # The second time nothing was trained; at last nobody knows the hours of a core.
    assert costs == [("10", "0.278"), ("10", "0.278"), ("15", "0.417"), ("20", None)]


def test_a_run_says_how_long_it_takes_and_that_changes_no_number_of_it(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(timing, "SHORT", 0)
    monkeypatch.setattr(timing, "GUESS", 0.0)
    assert experiment.start(TINY, tmp_path / "run") == 0
    out = capsys.readouterr().out
    assert re.search(r"Training takes about \d+s on this machine, by the first seconds' timing\.", out)
    assert re.search(r"epoch 1/4, .* about \d+s left", out)
    runs = [read_metrics(path / "metrics.jsonl") for path in (finished, tmp_path / "run")]
    timed = [{k: v for k, v in record.items() if "second" not in k and "per_s" not in k} for record in runs[0]]
    assert [{k: record[k] for k in kept} for record, kept in zip(runs[1], timed, strict=True)] == timed


def test_resuming_a_finished_run_says_so(finished, capsys, monkeypatch):
    monkeypatch.setattr(timing, "guess", None)  # nothing is timed
    before = (finished / "metrics.jsonl").read_bytes()
    torch.set_num_threads(torch.get_num_threads() + 1)
    try:
        assert experiment.resume(finished) == 0
    finally:
        torch.set_num_threads(torch.get_num_threads() - 1)
    said = capsys.readouterr().out
    assert "nothing left to train" in said
    assert "bit for bit" not in said
    assert "from epoch" not in said
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_eval_and_report_commands(finished, capsys):
    assert main(["eval", str(finished), "--episodes", "3", "--seed", "5", "--no-films"]) == 0
    assert "over 3 games" in capsys.readouterr().out
    (path,) = (finished / "evaluation").glob("3-games-*.json")
    assert len(Evaluation.from_json(path.read_text()).scores) == 3
    assert main(["report", str(finished)]) == 0


def test_an_evaluation_is_repeated_from_what_its_own_file_says(finished):
    """The scores of the agent's and of the random player's final evaluation, from their files and the checkpoint."""
    trained = Trained.load(finished, "cpu")
    for name in ("final", "random"):
        told = Evaluation.from_json((finished / "evaluation" / f"{name}.json").read_text())
        said, n = told.protocol, len(told.scores)
        assert said["device"] == describe(trained.compute)
        if said["player"] == "agent":
            policy = AgentPolicy(trained.agent, trained.compute, temperature=said["temperature"], seed=said["seed"])
        else:
            draw = trained.agent.actor_critic.actions.random
            policy = random_player(draw, np.random.default_rng(said["seed"]))
        again, _ = evaluate(
            trained.config, policy, n, said["seed"], together=said["envs"], temperature=said["temperature"]
        )
        assert (again.scores, again.lengths, again.seeds) == (told.scores, told.lengths, told.seeds)


def test_the_command_repeats_the_evaluation_that_training_ended_with(tmp_path):
    run = tmp_path / "run"
    assert experiment.start(dataclasses.replace(TINY, seed=3), run) == 0
    final = Evaluation.from_json((run / "evaluation" / "final.json").read_text())
    best, median = ((run / "films" / f"{name}.mp4").read_bytes() for name in ("best", "median"))
    assert main(["eval", str(run), "--temperature", "2"]) == 0
    (other,) = (run / "films").glob("*/best.mp4")
    assert other.parent.name == f"{len(final.scores)}-games-epoch-4-temperature-2-seed-3"
    (run / "films" / "best.mp4").unlink()
    assert main(["eval", str(run)]) == 0
    assert (run / "films" / "best.mp4").read_bytes() == best
    assert (run / "films" / "median.mp4").read_bytes() == median
    (path,) = (run / "evaluation").glob(f"{len(final.scores)}-games-epoch-4-temperature-0.5-seed-3.json")
    again = Evaluation.from_json(path.read_text())
    assert (again.scores, again.lengths, again.seeds) == (final.scores, final.lengths, final.seeds)
    assert again.protocol["temperature"] == final.protocol["temperature"] == TINY.evaluation.temperature


def test_a_score_that_cannot_be_written_is_printed(finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "evaluation")
    (run / "evaluation").write_text("")  # no folder can be made here, as on a read-only file system
    assert main(["eval", str(run), "--episodes", "2", "--no-films"]) == 2
    said = capsys.readouterr()
    assert "mean " in said.out
    assert said.err.count("\n") == 1


def test_without_ffmpeg_there_is_a_page_and_no_film(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nothing"))
    assert experiment.start(TINY, run) == 0
    said = capsys.readouterr().out
    assert f"report: {run / 'report.html'}" in said
    assert "no films: " in said
    assert "dream" in (run / "report.html").read_text()
    assert sorted(path.name for path in (run / "pictures").iterdir()) == [
        "codes.png", "dream.png", "real.png", "reconstruction.png",
    ]  # fmt: skip
    assert not list(run.glob("films/*"))


def test_an_environment_that_breaks_while_it_is_filmed_costs_no_score(tmp_path, monkeypatch):
    uniform = random_player(Discrete(3).random, np.random.default_rng(0))
    result, games = evaluate(TINY, uniform, 2, 0)

    def broken(envs, game):
        raise EnvError("the wheel came off")
        yield

    monkeypatch.setattr(filming, "replay_game", broken)
    said = []
    filming.write_films(TINY, result, games, tmp_path, said.append, again="tokendream eval runs/x")
    filming.write_films(TINY, result, games, tmp_path, said.append)
    assert said == ["no films: the wheel came off; tokendream eval runs/x makes them", "no films: the wheel came off"]


def test_a_report_that_could_not_be_written_is_not_named(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"

    def full(path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(results, "write_report", full)
    assert experiment.start(TINY, run) == 0
    said = capsys.readouterr().out
    assert "the report was not refreshed: " in said
    assert "report: " not in said.replace("report was", "")


def test_a_run_is_never_overwritten(finished, capsys):
    assert main(["train", "tiny", "--run-dir", str(finished)]) == 2
    assert "--resume" in capsys.readouterr().err


def test_a_replay_that_memory_cannot_hold_is_refused_before_there_is_a_folder(tmp_path, monkeypatch, capsys):
    rows = TINY.env_steps - 1
    monkeypatch.setattr("tokendream.training.run.free_here", lambda: rows * 3 * TINY.env.size**2)
    assert main(["train", "tiny", "--run-dir", str(tmp_path / "run")]) == 2
    assert f"collect.capacity must be at most {rows}, as 0.0 GiB" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_default_names_are_free(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "tokendream-Catch-v0-tiny-seed0").mkdir(parents=True)
    assert free_name(TINY).name == "tokendream-Catch-v0-tiny-seed0-2"


def test_the_commit_is_that_of_the_code_alone(tmp_path):
    package = tmp_path / "tokendream"
    package.mkdir()
    module = package / "__init__.py"
    module.write_text("")
    assert commit(package) == ""

    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        return subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True, text=True)

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    clean = commit(package)
    assert git("rev-parse", "HEAD").stdout.startswith(clean)
    (tmp_path / "speed.json").write_text("{}")
    assert commit(package) == clean
    module.write_text("changed")
    assert commit(package) == f"{clean}-dirty"
    installed = tmp_path / "site-packages" / "tokendream"
    installed.mkdir(parents=True)
    assert commit(installed) == ""  # the repository around it is another's


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    (tmp_path / "config.json").write_text(TINY.to_json())
    with lock.hold(tmp_path, "me"), pytest.raises(ConfigError, match="another process is training"):
        experiment.resume(tmp_path)


def test_a_run_that_is_stopped_in_an_evaluation_is_saved_once(tmp_path, monkeypatch):
    saved, save = [], Checkpoints.save
    monkeypatch.setattr(
        Checkpoints, "save", lambda store, epoch, *rest: (saved.append(epoch), save(store, epoch, *rest))
    )

    def stopped(self, epoch):
        self.stop.reason = "SIGTERM"
        raise Stopped

    monkeypatch.setattr(results.RunResults, "during", stopped)
    assert experiment.start(TINY, tmp_path / "run") == 143
    assert saved == [0]
    assert Checkpoints(tmp_path / "run").epochs() == [0]


@pytest.mark.parametrize(("load", "threads"), [(99.0, 2), (99.0, 1), (0.0, 2)])
def test_a_run_that_would_wait_for_other_work_says_so(tmp_path, capsys, monkeypatch, load, threads):
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert experiment.start(TINY, tmp_path / "run", time_limit=0.0) == 0
    assert ("this machine is busy" in capsys.readouterr().out) is (load > 0 and threads > 1)


def test_a_time_limit_stops_at_a_checkpoint(tmp_path, capsys):
    run_dir = tmp_path / "run"
    assert experiment.start(TINY, run_dir, time_limit=0.0) == 0
    said = capsys.readouterr().out
    assert "stopped (time limit)" in said
    assert "from epoch 1 of 4" not in said
    assert experiment.resume(run_dir) == 0
    assert re.search(f"going on with .* in {re.escape(str(run_dir))} from epoch 1 of 4\n", capsys.readouterr().out)
    assert [r["epoch"] for r in read_metrics(run_dir / "metrics.jsonl")] == [1, 2, 3, 4]


def test_a_run_cut_before_its_first_checkpoint_begins_again_and_says_so(tmp_path, capsys, monkeypatch):
    """Also where the disk was too full for the first one, after its epoch was written down."""
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert main(["train", "tiny", "--run-dir", str(run_dir)]) == 2
    assert [r["epoch"] for r in read_metrics(run_dir / "metrics.jsonl")] == [1, 2]
    said = capsys.readouterr()
    assert "from the beginning" not in said.out
    assert "intact" not in said.err  # there are no earlier checkpoints
    assert "nothing was saved yet" in said.err
    assert experiment.resume(run_dir) == 0
    assert "no checkpoint yet: from the beginning\n" in capsys.readouterr().out


@pytest.mark.parametrize("gone", [["evaluation"], ["metrics.jsonl"], []])
def test_a_run_whose_checkpoints_are_gone_is_not_trained_again(finished, tmp_path, capsys, gone):
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir, ignore=shutil.ignore_patterns("epoch-00000[0-9]", *gone))
    before = sorted((path, path.stat().st_mtime) for path in run_dir.rglob("*.json*"))
    assert main(["train", "--resume", str(run_dir)]) == 2
    to = "to its end" if "metrics.jsonl" in gone else "to epoch 4"
    assert f"{run_dir} was trained {to}, but its checkpoints are gone: copy " in capsys.readouterr().err
    assert sorted((path, path.stat().st_mtime) for path in run_dir.rglob("*.json*")) == before


@pytest.mark.parametrize(
    "change",
    [
        "nothing",
        "threads",
        "torch",
        "processor",
        "an older version's facts",
        "one threads",
        "facts gone",
        "facts broken",
    ],
)
def test_going_on_elsewhere_is_said_in_one_line(tmp_path, capsys, change):
    """docs/trust.md promises the same bits on the same machine; where it is another one, a resume says so."""
    run_dir = tmp_path / "run"
    experiment.start(TINY, run_dir, time_limit=0.0)
    path, threads = run_dir / "facts.json", torch.get_num_threads()
    facts = json.loads(path.read_text())
    if change == "torch":
        path.write_text(json.dumps(facts | {"torch": "1.0.0"}))
    elif change == "processor":
        path.write_text(json.dumps(facts | {"processor": "Some Processor"}))
    elif change == "an older version's facts":
        path.write_text(json.dumps({key: fact for key, fact in facts.items() if key != "processor"}))
    elif change == "one threads":  # as it was written before
        path.write_text(json.dumps(facts | {"device": facts["device"].replace("CPU, 1 thread,", "CPU, 1 threads,")}))
    elif change == "facts gone":
        path.unlink()
    elif change == "facts broken":
        path.write_text("[1")
    capsys.readouterr()
    torch.set_num_threads(threads + (change == "threads"))
    try:
        experiment.resume(run_dir, time_limit=0.0)
    finally:
        torch.set_num_threads(threads)
    said = [line for line in capsys.readouterr().out.splitlines() if "bit for bit" in line]
    began, rest = facts["device"], facts["device"].split(", ", 2)[2]
    device = f"begun with device {began!r}, now 'CPU, {threads + 1} threads, {rest}': "
    begins = {
        "threads": device,
        "torch": f"begun with torch '1.0.0', now '{torch.__version__}': ",
        "processor": f"begun with processor 'Some Processor', now {processor()!r}: ",
    }
    assert [line.startswith(begins[change]) for line in said] == ([True] if change in begins else [])
    resumed = json.loads(path.read_text()).get("resumed", "") if path.exists() and change != "facts broken" else ""
    assert bool(resumed) == bool(said)
    if said:
        assert resumed.startswith(f"epoch 1: {'device' if change == 'threads' else change} ")


def spoil(run_dir, name, text):
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / name).write_text(text)
    return run_dir


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "config is not JSON"),
        ("{}", "config has format None"),
        ('{"format": 99}', "config has format 99; this tokendream reads formats 1 and 2"),
        (TINY.to_json()[:-40], "config is not JSON"),
        (TINY.to_json().replace('"epochs"', '"epohcs"'), "config.epohcs is unknown; nearest: epochs"),
        (TINY.to_json().replace('"epochs": 4', '"epochs": "4"'), "config.epochs must be of type int"),
    ],
)
def test_a_damaged_config_is_refused_in_one_line(tmp_path, capsys, text, message):
    for argv in (["eval"], ["train", "--resume"], ["report"]):
        assert main([*argv, str(spoil(tmp_path / "run", "config.json", text))]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1


def test_empty_and_foreign_folders_are_refused(tmp_path, capsys):
    for argv in (["eval"], ["train", "--resume"]):
        assert main([*argv, str(tmp_path)]) == 2
        assert "it has no config.json" in capsys.readouterr().err
    spoil(tmp_path / "run", "config.json", TINY.to_json())
    assert main(["eval", str(tmp_path / "run")]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err


def test_a_damaged_checkpoint_falls_back_to_the_one_before(finished, capsys):
    victim = finished / "checkpoints" / "epoch-000004" / "agent.safetensors"
    good = victim.read_bytes()
    victim.write_bytes(good[:-7])
    try:
        assert main(["eval", str(finished), "--episodes", "1", "--no-films"]) == 0
        assert "epoch-000002" in capsys.readouterr().out
    finally:
        victim.write_bytes(good)
