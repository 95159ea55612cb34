"""What is measured of a machine once, what follows for a run, and that a run keeps what it began with."""

import dataclasses
import functools
import json
import os
import stat

import pytest
import torch

from tokendream.cli.main import main
from tokendream.config.presets import TINY
from tokendream.device import processor
from tokendream.kernels import cache, machine
from tokendream.kernels.cpu import build
from tokendream.kernels.install import describe
from tokendream.kernels.machine import OWN, Calibration
from tokendream.runfolder.folder import read_facts
from tokendream.runfolder.load import Trained
from tokendream.training import run as experiment

AVX2 = Calibration(
    {"float32": 1e11, "bf16": 1e9}, 2e10, {"float32": 0.06, "float32" + OWN: 0.05}, {"8": 1.0, "4": 0.9, "2": 2.0}
)
"""Emulated bf16, as it is on processors without any of it."""

AMX = dataclasses.replace(AVX2, updates=AVX2.updates | {"bf16": 0.03, "bf16" + OWN: 0.02})


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Folders to keep figures in, and how often the machine was measured."""
    folders, count = [tmp_path / "home", tmp_path / "tmp"], []
    for folder in folders:
        folder.mkdir()

    def measure(*, kernels: bool) -> Calibration:
        count.append(kernels)
        return dataclasses.replace(AVX2, copies=float(len(count)))

    monkeypatch.setattr(machine, "measure", measure)
    monkeypatch.setattr(cache, "folders", lambda: iter(folders))
    return folders, count


def threads_here():
    return "1 thread" if torch.get_num_threads() == 1 else f"{torch.get_num_threads()} threads"


def calibration(**how):
    """As in a process of its own."""
    return machine.calibration.__wrapped__(**how)


def said(monkeypatch, found):
    """Let the machine be one of which this was measured."""
    monkeypatch.setattr(machine, "calibration", lambda *, kernels=True, again=False: found)


@pytest.mark.parametrize(
    ("updates", "bf16", "kernels"),
    [
        (AVX2.updates, False, True),
        (AMX.updates, True, True),
        ({"float32": 0.05, "float32" + OWN: 0.06, "bf16": 0.049, "bf16" + OWN: 0.048}, False, False),
        ({"float32": 0.05, "float32" + OWN: 0.04, "bf16": 0.03, "bf16" + OWN: 0.035}, True, False),
        ({"float32": 0.05, "float32" + OWN: 0.047}, False, False),
        ({"float32": 0.05, "bf16": 0.03}, True, True),  # no compiler: `describe` says so, and nothing is installed
    ],
)
def test_the_fastest_is_taken_and_bf16_and_own_kernels_must_be_so_by_a_tenth(monkeypatch, updates, bf16, kernels):
    said(monkeypatch, dataclasses.replace(AVX2, updates=updates))
    compute = machine.compute_for(TINY, "cpu")
    assert (compute.dtype is torch.bfloat16, compute.kernels) == (bf16, kernels)
    assert machine.compute_for(dataclasses.replace(TINY, precision="bf16")).dtype is torch.bfloat16
    assert machine.compute_for(dataclasses.replace(TINY, precision="float32")).dtype is torch.float32
    assert not machine.compute_for(dataclasses.replace(TINY, kernels=False)).kernels


def test_nothing_is_measured_where_nothing_is_left_open(monkeypatch):
    monkeypatch.setattr(machine, "calibration", lambda **_: pytest.fail("measured"))
    compute = machine.compute_for(dataclasses.replace(TINY, precision="float32", kernels=False))
    assert describe(compute) == f"CPU, {threads_here()}, float32"


def test_fewer_threads_are_taken_where_they_are_clearly_faster():
    """A container with the processor time of two cores on a machine of eight."""
    assert AVX2.best_threads == 8
    assert dataclasses.replace(AVX2, threads={"8": 1.0, "4": 0.5, "2": 0.2, "1": 0.4}).best_threads == 2
    assert dataclasses.replace(AVX2, threads={"8": 1.0}).best_threads == 8


def test_the_number_of_threads_is_the_users_the_runs_or_the_fastest(monkeypatch):
    taken, now = [], machine.THREADS
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    said(monkeypatch, dataclasses.replace(AVX2, threads={"8": 1.0, "4": 0.5}))
    machine.compute_for(TINY, threads=True)  # OMP_NUM_THREADS is set for all tests
    monkeypatch.delenv("OMP_NUM_THREADS")
    machine.compute_for(TINY)
    machine.compute_for(TINY, threads=True)
    facts = {"processor": processor(), "torch": torch.__version__, "device": "CPU, 999 threads, float32"}
    machine.compute_for(TINY, "", facts, threads=True)  # no more than there are
    one = {"device": "CPU, 1 threads, float32"}
    machine.compute_for(TINY, "", facts | one, threads=True)
    machine.compute_for(TINY, "", facts | one | {"processor": "another"}, threads=True)
    assert taken == [4, now, 1, 4]
    machine.compute_for(TINY, "", facts | {"device": "CPU, 1 thread, float32"}, threads=True)
    assert taken.pop() == 1
    chosen = dataclasses.replace(TINY, precision="float32", kernels=False)
    machine.compute_for(chosen, threads=True)  # nothing is left to measure
    machine.compute_for(chosen, "", facts | one, threads=True)
    assert taken == [4, now, 1, 4, 1]


def test_a_machine_is_measured_once(measured):
    (home, _), count = measured
    assert calibration() == calibration() == dataclasses.replace(AVX2, copies=1.0)
    assert calibration(again=True) == calibration() == dataclasses.replace(AVX2, copies=2.0)
    (kept,) = home.iterdir()
    kept.write_text(kept.read_text()[:-9])  # a full disk
    assert calibration(again=True).copies == 3.0
    assert len(count) == 3
    calibration(kernels=False)  # another question: which is not answered by own kernels' figures
    assert count[3:] == [False]


def test_what_a_busy_machine_left_open_is_measured_once_it_is_idle(measured, monkeypatch):
    _, count = measured
    load, alone = [99.0], dataclasses.replace(AVX2, threads={"8": 1.0})
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(machine, "THREADS", 8)
    monkeypatch.setattr(os, "getloadavg", lambda: (load[0], 0.0, 0.0))
    monkeypatch.setattr(machine, "measure", lambda *, kernels: count.append(load[0]) or (alone if load[0] else AVX2))
    assert calibration() == calibration() == alone
    load[0] = 0.0
    assert calibration() == calibration() == AVX2
    assert count == [99.0, 0.0]


def test_another_torch_processor_or_limit_of_instructions_is_measured_again(measured, monkeypatch):
    _, count = measured
    for name, value in (("torch", "2.99"), ("limit", "avx2"), ("processor", "Some Processor")):
        calibration()
        if name == "torch":
            monkeypatch.setattr(torch, "__version__", value)
        elif name == "limit":
            monkeypatch.setenv("ATEN_CPU_CAPABILITY", value)
        else:
            monkeypatch.setattr(machine, "processor", functools.partial(str, value))
        calibration()
    assert len(count) == 4


def test_where_no_folder_can_be_written_every_process_measures(measured, monkeypatch):
    home, tmp = measured[0]
    monkeypatch.setattr(cache, "folders", lambda: iter([home / "none", tmp]))
    assert [calibration().copies for _ in range(2)] == [1.0, 1.0]
    assert list(tmp.iterdir()) != []  # the next folder has it
    monkeypatch.setattr(cache, "folders", lambda: iter([home / "none"]))
    assert [calibration().copies for _ in range(2)] == [2.0, 3.0]
    monkeypatch.setattr(cache, "folders", lambda: iter([]))
    assert calibration().copies == 4.0


def test_of_two_that_measure_at_once_both_take_the_firsts(measured, monkeypatch):
    (home, _), _ = measured
    first = functools.partial(machine.measure, kernels=True)

    def measure(*, kernels: bool) -> Calibration:
        monkeypatch.setattr(machine, "measure", lambda *, kernels: first())
        other = calibration()  # another process, meanwhile
        assert [stat.S_ISREG(path.stat().st_mode) for path in home.iterdir()] == [True]
        return dataclasses.replace(other, copies=99.0)

    monkeypatch.setattr(machine, "measure", measure)
    assert calibration().copies == 1.0
    assert len(list(home.iterdir())) == 1


def test_measuring_changes_nothing_and_gives_figures_of_all_that_is_fast_here():
    torch.manual_seed(3)
    expected, threads = torch.rand(()), torch.get_num_threads()
    torch.manual_seed(3)
    found = machine.measure(kernels=build.library() is not None)
    assert torch.rand(()) == expected
    assert torch.get_num_threads() == threads
    assert list(found.products) == ["float32", "bf16"]
    assert all(value > 0 for figures in (found.products, found.updates, found.threads) for value in figures.values())
    assert found.copies > 0
    own = [OWN] if build.library() is not None else []
    assert set(found.updates) >= {"float32" + name for name in ("", *own)}
    assert ("bf16" in found.updates) == (found.fastest("bf16") < float("inf"))
    assert list(found.threads) == [str(threads)]  # as OMP_NUM_THREADS says
    assert Calibration(**json.loads(json.dumps(dataclasses.asdict(found)))) == found


def test_a_run_that_goes_on_keeps_what_it_began_with(tmp_path, capsys, monkeypatch):
    """Also where the figures are gone and new ones say otherwise; on another processor it is said."""
    run_dir = tmp_path / "run"
    said(monkeypatch, dataclasses.replace(AVX2, updates={"float32": 0.05, "float32" + OWN: 0.06}))
    experiment.start(TINY, run_dir, time_limit=0.0)
    began = read_facts(run_dir)
    assert began["device"] == f"CPU, {threads_here()}, float32"
    said(monkeypatch, AMX)
    capsys.readouterr()
    experiment.resume(run_dir, time_limit=0.0)
    assert f"on {began['device']}, in" in (out := capsys.readouterr().out)
    assert "bit for bit" not in out
    assert describe(Trained.load(run_dir).compute) == began["device"]
    without = began | {"device": f"{began['device']}, no kernels (no C++ compiler)"}  # since then there is one
    assert not machine.compute_for(TINY, facts=without).kernels
    assert machine.compute_for(TINY, facts=began | {"device": began["device"] + OWN}).kernels
    (run_dir / "facts.json").write_text(json.dumps(began | {"processor": "Some Processor"}))
    experiment.resume(run_dir, time_limit=0.0)
    assert "begun with device" in (out := capsys.readouterr().out)
    assert "bf16" in out


def test_the_command_says_what_a_run_uses_and_why(monkeypatch, capsys):
    said(monkeypatch, AVX2)
    assert main(["machine"]) == 0
    out = capsys.readouterr().out
    for line in (f"processor: {processor()}, {os.cpu_count()} cores", "GPU: none", "products in bf16: 0.001 TFLOP/s",
                 f"a run uses: CPU, {threads_here()}, float32", "products in bf16 are slower",
                 "50 ms of one thread in float32, own kernels"):  # fmt: skip
        assert line in out
    said(monkeypatch, AMX)
    assert main(["machine", "--again"]) == 0
    assert "an update of four layers takes 50 ms, in bf16 20 ms" in capsys.readouterr().out
