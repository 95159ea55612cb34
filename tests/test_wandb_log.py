"""`--log wandb` with a package that only remembers: what it is sent, that a resume goes on, and faults of its own."""

import sys
import types

import pytest

from tokendream.cli.main import main
from tokendream.config.config import Config
from tokendream.runfolder.metrics import read_metrics
from tokendream.training.results import RunResults

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")

FLAGS = ["train", "tiny", "--log", "wandb", "--collect.steps", "20", "--evaluation.episodes", "1"]


class FakeRun:
    def __init__(self, settings, module):
        self.settings, self.lines, self.finished, self._module = settings, [], False, module

    def log(self, figures, step):
        if step >= self._module.broken_from:
            raise self._module.fault
        self.lines.append((step, figures))

    def finish(self):
        self.finished = True


@pytest.fixture(autouse=True)
def _only_training(monkeypatch):
    """Games, diagnosis and report of the end are most of such a run, and nothing of them is sent."""
    monkeypatch.setattr(RunResults, "final", lambda results: results.envs.close())


@pytest.fixture
def fake(monkeypatch):
    """The module `wandb` as far as it is used; `runs` are those that were begun."""
    module = types.ModuleType("wandb")
    module.runs, module.broken_from, module.fault = [], 10**9, ConnectionError("the network is gone")

    def init(**settings):
        module.runs.append(FakeRun(settings, module))
        return module.runs[-1]

    module.init, module.Settings = init, dict
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_every_epoch_is_sent_with_its_figures_and_the_config(fake, tmp_path):
    folder = tmp_path / "run"
    assert main([*FLAGS, "--epochs", "2", "--run-dir", str(folder)]) == 0
    (run,) = fake.runs
    records = read_metrics(folder / "metrics.jsonl")
    assert run.lines == [(r["epoch"], r) for r in records]
    assert len(records) == 2
    assert run.finished
    assert run.settings["project"] == "tokendream"
    assert run.settings["name"] == "run"
    assert run.settings["config"]["world_model.width"] == 16
    assert run.settings["settings"] == {"console": "off"}
    assert any((folder / "tensorboard").iterdir())
    assert Config.from_json((folder / "config.json").read_text()).log == "wandb"


def test_a_resumed_run_goes_on_with_its_page(fake, tmp_path):
    folder = tmp_path / "run"
    fake.broken_from, fake.fault = 2, KeyboardInterrupt()
    assert main([*FLAGS, "--epochs", "3", "--checkpoint-every", "1", "--run-dir", str(folder)]) == 130
    fake.broken_from = 10**9
    assert main(["train", "--resume", str(folder)]) == 0
    first, second = fake.runs
    assert first.settings["id"] == second.settings["id"]
    assert second.settings["resume"] == "allow"
    assert [step for run in fake.runs for step, _ in run.lines] == [1, 2, 3]
    assert first.finished
    assert second.finished


def test_its_faults_cost_no_training(fake, tmp_path, capsys):
    fake.broken_from = 2
    folder = tmp_path / "run"
    assert main([*FLAGS, "--epochs", "3", "--run-dir", str(folder)]) == 0
    assert [r["epoch"] for r in read_metrics(folder / "metrics.jsonl")] == [1, 2, 3]
    assert [step for step, _ in fake.runs[0].lines] == [1]
    assert capsys.readouterr().err.count("nothing more is sent to wandb: the network is gone") == 1


def test_without_the_package_nothing_begins(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)  # which importing it refuses
    for argv in (
        [*FLAGS, "--run-dir", str(tmp_path / "run")],
        ["sweep", "--games", "Boxing", "--preset", "tiny", "--log", "wandb", "--out", str(tmp_path / "sweep")],
    ):
        assert main(argv) == 2
        said = capsys.readouterr().err
        assert said.endswith("--log wandb needs a package that is not there: pip install 'tokendream[wandb]'\n")
    assert not list(tmp_path.iterdir())


def test_a_start_that_it_refuses_is_one_line(fake, monkeypatch, tmp_path, capsys):
    def refuse(**settings):
        raise RuntimeError("no API key\nconfigured")

    monkeypatch.setattr(fake, "init", refuse)
    assert main([*FLAGS, "--run-dir", str(tmp_path / "run")]) == 2
    assert "--log wandb cannot begin: no API key configured" in capsys.readouterr().err


def test_it_is_not_imported_unless_asked_for(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    flags = [word for word in FLAGS if word not in ("--log", "wandb")]
    assert main([*flags, "--epochs", "1", "--run-dir", str(tmp_path / "run")]) == 0
