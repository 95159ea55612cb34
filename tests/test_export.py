"""`tokendream export`: what a file says of its agent, and that every command takes one in place of a run."""

import shutil
from pathlib import Path

import pytest
from playing import Client, make_run, serving

import tokendream
from tokendream.cli.main import main
from tokendream.evaluation.evaluation import Evaluation


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "run"
    flags = ["--epochs", "1", "--collect.steps", "60", "--evaluation.episodes", "2", "--dream.burn-in", "2"]
    assert main(["train", "tiny", *flags, "--run-dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def file(run, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("elsewhere") / "an agent.safetensors"
    assert main(["export", str(run), "--out", str(path)]) == 0
    return path


def test_a_file_knows_preset_budget_and_score(run, file):
    facts = tokendream.load(file, "cpu").facts
    final = Evaluation.from_json((run / "evaluation" / "final.json").read_text())
    assert facts["preset"] == "tiny"
    assert facts["epochs"] == "1 of 1"
    assert facts["budget"].startswith("60 env steps, ")
    assert facts["score"].startswith(f"{final.mean:.4g}, mean of 2 games, 95% interval ")
    assert "mean of 2 games" in facts["random player"]
    assert {"processor", "device", "version"} <= facts.keys()
    assert not tokendream.load(run, "cpu").facts  # a run folder holds them itself


def test_it_is_written_here_under_the_name_of_the_run(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tokendream.reports.export.HERE", str(tmp_path))
    assert main(["export", str(run)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]
    assert "score          " in capsys.readouterr().out


def test_an_agent_without_a_score_says_none(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    assert main(["export", str(run), "--out", str(tmp_path / "x.safetensors")]) == 0
    assert "  score" not in capsys.readouterr().out
    assert tokendream.load(tmp_path / "x.safetensors", "cpu").facts["epochs"] == "3 of 4"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["export", "nowhere"], "there is no run folder nowhere"),
        (["export", "RUN", "--out", "agent.pt"], "an agent's file ends in .safetensors, not 'agent.pt'"),
        (["train", "--resume", "FILE"], "is a file, no run folder"),
        (["report", "FILE"], "an agent.safetensors"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(run, file, argv, said, capsys):
    assert main([word.replace("RUN", str(run)).replace("FILE", str(file)) for word in argv]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("flags", [[], ["--out", "./agent.safetensors"]])
def test_no_file_takes_its_own_place(file, tmp_path, monkeypatch, capsys, flags):
    shutil.copy(file, tmp_path / "agent.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tokendream.reports.export.HERE", str(tmp_path))
    assert main(["export", "agent.safetensors", "--half", *flags]) == 2
    assert "would take its own place: name another file with --out" in capsys.readouterr().err
    assert (tmp_path / "agent.safetensors").read_bytes() == file.read_bytes()


def test_eval_gives_the_score_of_the_run_and_writes_beside_the_file(run, file, capsys):
    assert main(["eval", str(file), "--episodes", "2", "--device", "cpu"]) == 0
    assert main(["eval", str(run), "--episodes", "2", "--no-films", "--device", "cpu"]) == 0
    of_file, of_run = (line for line in capsys.readouterr().out.splitlines() if "mean" in line)
    assert of_file == of_run
    results = file.with_name("an agent-results")
    assert len(list((results / "evaluation").glob("*.json"))) == 1
    assert (results / "films" / "best.mp4").is_file()


def test_diagnose_writes_beside_the_file(file):
    assert main(["diagnose", str(file), "--steps", "60", "--device", "cpu"]) == 0
    assert (file.with_name("an agent-results") / "diagnosis-60-steps.html").is_file()


def test_dream_and_play_take_it(file, tmp_path, capsys):
    alone = tmp_path / "alone" / "agent.safetensors"
    alone.parent.mkdir()
    shutil.copy(file, alone)
    assert main(["dream", str(alone), "--out", str(tmp_path / "a.png"), "--at", "8", "--length", "4"]) == 0
    assert (tmp_path / "a.png").is_file()
    capsys.readouterr()
    with serving(alone, tmp_path / "recordings") as server:
        client = Client(server)
        client.say("mode", "agent-both")
        client.until(lambda c: c.state.get("mode") == "agent-both" and c.state["step"] >= 3)
        client.say("reload")
        client.until(lambda c: any("playing the checkpoint" in notice for notice in c.notices()))
        assert client.setup()["run"] == "agent"
        assert client.setup()["episodes"] == []
        client.close()
    assert "no episodes" not in capsys.readouterr().out
    assert [path.name for path in alone.parent.iterdir()] == ["agent.safetensors"]
