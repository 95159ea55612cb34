"""What is said in one line, and what keeps its traceback: a user's mistake and a bug of ours."""

import ast
import shutil
from pathlib import Path

import pytest
import torch
from test_trainer import trainer

from tokendream.agent.collect import Collector
from tokendream.cli import main as cli
from tokendream.cli import report
from tokendream.errors import ConfigError, NonFiniteError, OutOfMemory, TokendreamError
from tokendream.training import timing
from tokendream.training.phases import ActorCriticPhase, WorldModelPhase

PACKAGE = Path(__file__).parents[1] / "tokendream"


@pytest.mark.parametrize("error", [ConfigError("no"), OutOfMemory("no"), NonFiniteError("no"), OSError("no")])
def test_a_users_mistake_is_one_line(error, monkeypatch, capsys):
    monkeypatch.setattr(report, "run", lambda _: (_ for _ in ()).throw(error))
    assert cli.main(["report", "x"]) == 2
    assert capsys.readouterr().err == "tokendream: no\n"


@pytest.mark.parametrize("bug", [ValueError("no"), RuntimeError("no"), KeyError("no")])
def test_a_bug_keeps_its_traceback(bug, monkeypatch):
    monkeypatch.setattr(report, "run", lambda _: (_ for _ in ()).throw(bug))
    with pytest.raises(type(bug)) as caught:
        cli.main(["report", "x"])
    assert caught.value is bug


def test_a_bug_in_a_run_says_where_the_run_lies_too(tmp_path, monkeypatch):
    """A shape error of torch is an IndexError or a ValueError as well as a RuntimeError; none is a user's fault."""

    def loss(*_):
        raise ValueError("shapes do not match")

    argv = ["train", "tiny", "--epochs", "4", "--checkpoint-every", "1", "--run-dir", str(tmp_path / "run")]
    monkeypatch.setattr(ActorCriticPhase, "loss", loss)  # from epoch 3 on
    with pytest.raises(ValueError, match="shapes do not match") as caught:
        cli.main(argv)
    assert not isinstance(caught.value, TokendreamError)
    (note,) = caught.value.__notes__
    assert "epoch 2 and all before it are saved" in note
    assert note.endswith(f"go on with: tokendream train --resume {tmp_path / 'run'}")
    assert caught.traceback[-1].name == "loss"


def test_a_bug_before_the_first_update_says_so_too(tmp_path, monkeypatch):
    """While its updates are timed."""
    argv = ["train", "tiny", "--run-dir", str(tmp_path / "run")]
    monkeypatch.setattr(timing, "SHORT", 0)
    monkeypatch.setattr(WorldModelPhase, "loss", lambda *_: {}["no such key"])
    with pytest.raises(KeyError) as caught:
        cli.main(argv)
    (note,) = caught.value.__notes__
    assert note.startswith("A bug in tokendream: nothing was saved yet; once the cause is mended, go on with: ")


def test_a_bug_while_a_run_is_resumed_is_not_taken_for_a_damaged_checkpoint(small, tmp_path, monkeypatch):
    shutil.copytree(small, tmp_path / "run")
    (tmp_path / "run" / "evaluation" / "final.json").unlink()
    monkeypatch.setattr(Collector, "_play_again", lambda self, games: self.no_such_name)
    with pytest.raises(AttributeError, match="no_such_name"):
        cli.main(["train", "--resume", str(tmp_path / "run")])


def test_a_machine_without_memory_is_no_damaged_checkpoint(monkeypatch):
    t, snapshot = trainer(), trainer().snapshot()

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(t.agent, "load_state_dict", full)
    with pytest.raises(torch.OutOfMemoryError):
        t.restore(snapshot)


def test_all_errors_of_ours_are_of_one_kind():
    """Or the command line would take them for bugs."""
    known = {"TokendreamError"}
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    while found := {name for name, its in bases.items() if its & known} - known:
        known |= found
    assert len(known) > 10
    errors = {name for name, its in bases.items() if its & {"Exception", "ValueError", "RuntimeError", "OSError"}}
    signals = {"Stopped", "Refused", "SlurmError"}  # caught within the room that raises them
    assert errors == {"TokendreamError"} | signals
