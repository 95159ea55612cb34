"""Several runs on one machine or GPU: how much memory each takes, and what is refused for it."""

import dataclasses

import pytest

from tokendream.cli.main import main
from tokendream.config.config import vary
from tokendream.config.presets import CPU, TINY, preset
from tokendream.errors import ConfigError
from tokendream.spaces.observations import image_spaces
from tokendream.sweep import memory
from tokendream.sweep.local import LocalEngine
from tokendream.sweep.resources import Resources
from tokendream.training.memory import needed

GIB = 2**30


def test_the_memory_of_a_run_is_computed_from_its_config():
    """Measured: 1.3 GiB for `cpu`; for `rem` 9.4, and 1.1 of replay. Both in bf16 with own kernels, which keep less."""
    small, rem = needed(CPU, image_spaces(48, 18), bf16=True), preset("rem")
    assert 1.2 < small / GIB < 1.6
    assert 10.6 < needed(rem, image_spaces(64, 18), bf16=True) / GIB < 14
    half = dataclasses.replace(CPU, collect=dataclasses.replace(CPU.collect, capacity=30_000))
    assert 30_000 * 48 * 48 * 3 < small - needed(half, image_spaces(48, 18), bf16=True) < 1.1 * 30_000 * 48 * 48 * 3


@pytest.mark.parametrize("kind", ["vq", "fsq", "dictionary", "pretrained"])
def test_it_is_computed_with_every_tokenizer(kind):
    small = vary(TINY, "tokenizer", kind=kind)
    assert 0.4 < needed(small, image_spaces(small.env.size, 3), bf16=False) / GIB < 1


def test_what_does_not_fit_is_refused_with_the_number_that_would(monkeypatch, capsys):
    monkeypatch.setattr(memory, "free_here", lambda: 4 * GIB)
    monkeypatch.setattr(memory, "free_on_gpu", lambda gpu: {"0": 70, "1": 30}[gpu] * GIB)
    monkeypatch.setattr(memory, "mps_runs", lambda: False)
    memory.check_fits(Resources(jobs=3), 3, [], GIB)
    memory.check_fits(Resources(), 2, ["0", "1"], 100 * GIB)  # one a GPU is never refused
    assert capsys.readouterr().err == ""
    memory.check_fits(Resources(runs_per_gpu=2), 4, ["0", "1"], 11 * GIB)
    assert "CUDA MPS does not run: the 2 runs of a GPU take turns on it" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"--jobs must be at most 2: .* about 1.5 GiB \(computed\), and 4.0 are free"):
        memory.check_fits(Resources(jobs=3), 3, [], 3 * GIB // 2)
    with pytest.raises(ConfigError, match=r"--runs-per-gpu must be at most 2: .* about 11.0 GiB .* 30.0 are free"):
        memory.check_fits(Resources(runs_per_gpu=3), 6, ["0", "1"], 11 * GIB)
    with pytest.raises(ConfigError, match="--jobs must be at most 4: "):
        memory.check_fits(Resources(jobs=6), 6, ["0", "1"], 11 * GIB)


def test_memory_that_is_not_known_is_not_checked(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    memory.check_fits(Resources(runs_per_gpu=5), 5, ["0"], 11 * GIB)
    assert "whether 5 runs fit was not checked" in capsys.readouterr().err
    assert 0 < memory.free_here() < 2**50


def test_runs_of_a_gpu_are_started_on_it(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert LocalEngine(tmp_path, Resources(runs_per_gpu=3)).jobs == 6
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match="runs-per-gpu is for GPUs, of which this machine has none"):
        LocalEngine(tmp_path, Resources(runs_per_gpu=3))
    with pytest.raises(ConfigError, match="takes the place of jobs"):
        Resources(runs_per_gpu=2, jobs=4)


def test_a_sweep_that_does_not_fit_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "free_here", lambda: GIB)
    assert main(["sweep", "--games", TINY.env.id, "--jobs", "3", "--preset", "tiny"]) == 2
    assert "--jobs must be at most 1: a run of this config takes about 0.5 GiB" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
