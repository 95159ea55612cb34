"""A run that is cut, however and wherever, and goes on, is to the bit the run that was never cut."""

import dataclasses
import signal
from pathlib import Path

import numpy as np
import pytest
from test_checkpoint_faults import Killed
from torture import FULL, count
from torture.child import PLACES
from torture.runs import Cut, Ended, digest, process, train
from torture.tally import Tally

from tokendream.cli.main import main
from tokendream.config.presets import TINY
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.training import run as experiment

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

REACHED = {
    "start": 2, "collect": 150, "update": 24, "dream": 6, "evaluation": 150, "checkpoint file": 40,
    "checkpoint name": 20, "old checkpoint": 5, "metrics line": 5, "restore": 3, "film": 100, "report": 2,
}  # fmt: skip
"""How often a whole run passes each place, about."""

CODES = {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}

QUICK = [
    Cut("checkpoint file", 12, 0, signal.SIGKILL),  # in the writing of the second checkpoint
    Cut("evaluation", 20, 0, signal.SIGINT),
    Cut("update", 4, 2.5, signal.SIGTERM),
]


def random_cuts(n: int) -> list[Cut]:
    """Every place at least once if n allows; half of the cuts are kill -9, half of them a little after the place."""
    rng = np.random.default_rng(6)
    places = [*rng.permutation(sorted(PLACES)), *rng.choice(sorted(PLACES), max(0, n - len(PLACES)))][:n]
    return [
        Cut(
            str(place),
            int(rng.integers(1, REACHED[place] + 1)),
            float(rng.choice([0, rng.exponential(30)])),
            [signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGTERM][i % 4],
        )
        for i, place in enumerate(places)
    ]


def test_the_same_seed_is_the_same_run_twice(straight, tmp_path, tally: Tally):
    assert train(tmp_path / "run").code == 0
    assert digest(tmp_path / "run") == straight
    tally("the same run a second time", 1, 0, "equal to the bit")


@pytest.mark.skipif(not FULL, reason="a measurement: make torture")
def test_what_changes_a_run(straight, tmp_path, tally: Tally):
    """Threads, precision and seed: what is equal to the bit between two runs that differ in one of them."""
    for name, flags, env in (
        ("two threads instead of one", [], {"OMP_NUM_THREADS": "2"}),
        ("float32 (auto was used before)", ["--precision", "float32"], {}),
        ("bf16", ["--precision", "bf16"], {}),
        ("another seed", ["--seed", "1"], {}),
    ):
        run_dir = tmp_path / name.split()[0]
        assert train(run_dir, Cut(), *flags, env=env).code == 0
        got = digest(run_dir)
        equal = [k for k in ("agent", "replay", "metrics") if got[k] == straight[k]]
        tally.note(f"{name}: {'the same weights, replay and metrics' if len(equal) == 3 else 'another run'}")


def check_cut(run_dir: Path, cut: Cut, ended: Ended) -> None:
    """A cut leaves a folder that can be resumed, and says how where it can speak."""
    assert ended.code == CODES[signal.Signals(cut.signal)], (cut, ended.err)
    if cut.signal != signal.SIGKILL:
        assert f"tokendream train --resume {run_dir}" in ended.out, (cut, ended.out)
        assert ended.err == "", ended.err
    if Checkpoints(run_dir).epochs():
        Checkpoints(run_dir).load(say=lambda line: pytest.fail(f"{cut}: {line}"))


def test_a_run_that_is_cut_goes_on_as_if_it_had_not_been(straight, tmp_path, tally: Tally):
    cuts = random_cuts(count(0, 20)) if FULL else list(QUICK)
    wanted, landed, folders, lost = len(cuts), [], 0, 0
    while cuts:
        run_dir, finished = tmp_path / f"run{folders}", False
        folders += 1
        for _ in range(5):
            if not cuts:
                break
            ended = train(run_dir, cuts[0])
            if ended.code == 0:
                # The rest of the run did not pass there often enough: a fresh one, and earlier, will.
                finished = True
                cuts[0] = Cut(cuts[0].place, max(1, cuts[0].number // 2), cuts[0].delay, cuts[0].signal)
                break
            check_cut(run_dir, cuts[0], ended)
            landed.append(cuts.pop(0))
        if not finished:
            ended = train(run_dir)
            assert ended.code == 0, ended.err
        lost += digest(run_dir) != straight
        assert digest(run_dir) == straight, landed
    assert len(landed) == wanted
    kinds = ", ".join(f"{sum(c.signal == s for c in landed)} {s.name}" for s in CODES)
    tally("processes cut", wanted, lost, f"{kinds}, at {len({c.place for c in landed})} places, in {folders} runs")


@pytest.mark.parametrize("saves", [1, 30, 70])  # in collecting, in collecting again, with all parts trained
def test_a_long_epoch_is_saved_within(tmp_path, monkeypatch, saves):
    config = dataclasses.replace(TINY, epochs=3, checkpoint_every=100)
    assert experiment.start(config, tmp_path / "whole") == 0
    number, save = 0, experiment.Run._save

    def killed(run: experiment.Run) -> None:
        nonlocal number
        save(run)
        number += 1
        if number == saves:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "UNSAVED", 0.0)
        patch.setattr(experiment.Run, "_save", killed)
        with pytest.raises(Killed):
            experiment.start(config, tmp_path / "cut")
    assert not (tmp_path / "cut/evaluation/final.json").exists()
    assert experiment.resume(tmp_path / "cut") == 0
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path, capsys, tally: Tally):
    run_dir = tmp_path / "run"
    first = process(["train", "tiny", "--epochs", "100000", "--run-dir", str(run_dir)])
    try:
        assert first.stdout is not None
        while "training" not in (line := first.stdout.readline()):
            assert line, first.stderr and first.stderr.read()
        assert main(["train", "--resume", str(run_dir)]) == 2
        assert capsys.readouterr().err == f"tokendream: another process is training in {run_dir}\n"
        first.send_signal(signal.SIGKILL)
        first.wait(30)
    finally:
        first.kill()
        first.communicate()
    going_on = train(run_dir, Cut("collect", 5, 0, signal.SIGTERM))
    assert going_on.code == 143, going_on.err
    tally("second process on a run", 1, 0, "refused; after kill -9 of the first the lock was free")
