"""`bench gpu`, tried on a CPU at tiny sizes: where there is a GPU its time is too dear to find a slip of the pen."""

import json
import math

import pytest
import torch

from benchmarks import gpu, speed
from benchmarks import measure as measure_module
from benchmarks.__main__ import main
from benchmarks.measure import Effort
from tokendream.config import presets
from tokendream.config.config import vary
from tokendream.config.presets import TINY
from tokendream.config.schedule import PARTS
from tokendream.device import Compute
from tokendream.kernels import compiled
from tokendream.kernels.machine import compute_for

SMALL = vary(vary(TINY, "world_model", layers=1, segment_length=3), "dream", horizon=2, burn_in=1)


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(gpu, "EFFORT", Effort(least=2, most=2, seconds=0.0))
    monkeypatch.setattr(gpu, "EPOCH_ROWS", 400)
    monkeypatch.setattr(speed, "ROWS", 64)
    monkeypatch.setattr("benchmarks.machine.COPIED", 2**24)
    monkeypatch.setitem(presets.PRESETS, "tiny", SMALL)
    monkeypatch.setattr(gpu, "matmul_peak", lambda device, dtype: 1e9)
    monkeypatch.setattr(measure_module, "SHORTEST", 0.0)
    # torch.compile would take minutes over wrappers that check types; `test_install` compiles, without them.
    monkeypatch.setattr(compiled, "COMPILED", {})


def bench(out, capsys):
    assert main(["gpu", "--preset", "tiny", "--device", "cpu", "--out", str(out)]) == 0
    return json.loads(out.read_text()), capsys.readouterr().out


def test_every_part_is_measured_and_every_target_judged(tmp_path, capsys):
    data, said = bench(tmp_path / "new" / "bench.json", capsys)
    assert data["errors"] == {}
    assert data["skipped"] == []
    assert set(data["epoch"]["seconds"]) == {"collect", *PARTS, "total"}
    assert data["epoch"]["seconds"]["total"] == pytest.approx(
        sum(s for name, s in data["epoch"]["seconds"].items() if name != "total")
    )
    assert data["epoch"]["replay_rows"] == 400
    assert data["epoch"]["captured"] == dict.fromkeys(["collect", *PARTS], "no graphs on a cpu")
    assert data["tests"] == {"outcome": "not run: they need a GPU"}
    assert data["copy_gb_per_s"] > 0
    assert {(c["fast"], c["slow"]) for c in data["comparisons"]} - {("own kernels", "PyTorch's operators")} == {
        ("captured", "plain"),
        ("captured and compiled", "captured"),
        ("sampled", "copy or sample"),
        ("POP", "token by token"),
        *([("bf16", "float32")] if compute_for(TINY, "cpu").dtype is torch.bfloat16 else []),
    }
    assert data["epoch, compiled"]["seconds"].keys() == data["epoch"]["seconds"].keys()
    assert len(data["targets"]) == 4
    for target in data["targets"]:
        assert target["found"] > 0
        assert math.isfinite(target["found"])
        assert type(target["met"]) is bool
    assert "`python -m benchmarks gpu --preset tiny`" in said
    assert "Targets" in said
    assert said.count("Written to") == 1
    assert "| not measured |" not in said


def test_a_part_that_fails_takes_no_other_with_it(tmp_path, capsys, monkeypatch):
    def broken(*_):
        raise RuntimeError("CUDA error: an illegal\nmemory access")

    monkeypatch.setattr(gpu, "epoch", broken)
    monkeypatch.setattr(gpu, "items", lambda *_, **__: map(broken, [0]))
    data, said = bench(tmp_path / "bench.json", capsys)
    fault = "RuntimeError: CUDA error: an illegal memory access"
    assert data["errors"] == dict.fromkeys(("epoch", "epoch, compiled", "phases"), fault)
    assert len(data["rows"]) == 14
    assert [t["found"] is None for t in data["targets"]] == [True] * 4
    assert "| not measured |" in said
    assert "failed: epoch: RuntimeError" in said


def test_the_file_is_written_after_every_part(tmp_path, monkeypatch):
    """Ctrl-C, or a machine that is taken away, loses nothing that was found."""
    out = tmp_path / "bench.json"

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "epoch", interrupted)
    assert main(["gpu", "--preset", "tiny", "--device", "cpu", "--out", str(out)]) == 130
    assert json.loads(out.read_text())["copy_gb_per_s"] > 0


def test_what_no_time_is_left_for_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "SECONDS", 0.0)
    data, said = bench(tmp_path / "bench.json", capsys)
    assert data["skipped"][:2] == ["machine", "epoch"]
    assert data["rows"] == []
    assert "| not measured |" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["gpu"]) == 2
    assert capsys.readouterr().err == "benchmarks: device cuda is not there: this machine has no CUDA device(s)\n"
    assert list(tmp_path.iterdir()) == []


def test_a_full_replay_repeats_whole_episodes():
    replay = gpu._full_replay(3300, 16, torch.device("cpu"))
    assert len(replay) == 3200
    assert len(replay.episodes()) == 20
    assert len(gpu._full_replay(100, 16, torch.device("cpu"))) == 100


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and GPU_TESTS=1")
def test_an_epoch_on_the_gpu_captures_every_phase():
    found = gpu.epoch(TINY, Compute.resolve("cuda"))
    assert found["captured"] == dict.fromkeys(["collect", *PARTS], "captured")
