"""What a GPU is tuned to, decided by timings that are made up here; and that runs keep to it."""

import dataclasses
import json
import math

import pytest
import torch

from tokendream.cli.main import main
from tokendream.config.config import vary
from tokendream.config.presets import TINY
from tokendream.device import Compute
from tokendream.kernels import cache, machine, tuned
from tokendream.kernels.install import COMPILED, PLAIN, TRITON, describe
from tokendream.kernels.tuned import Timed, decide
from tokendream.training import tuning

GPU = Compute(torch.device("cuda"), torch.bfloat16)
UPDATES = {"tokenizer": 200, "world_model": 200, "actor_critic": 80}
FOUND = (2.0, 0.5)


def timed(**ways: tuple[float, ...]) -> dict[str, dict[str, Timed]]:
    """Milliseconds of the phases by each way, all with the same figures."""
    named = {"plain": PLAIN, "triton": TRITON, "compiled": COMPILED}
    return {
        named[way]: {phase: Timed(ms / 1e3, FOUND) for phase, ms in zip(UPDATES, times, strict=False)}
        for way, times in ways.items()
    }


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A GPU that is not there, and an empty cache folder."""
    monkeypatch.setattr(Compute, "describe", lambda self: "Some GPU, bf16")
    monkeypatch.setattr(Compute, "resolve", lambda *_, **switches: dataclasses.replace(GPU, **switches))
    monkeypatch.setattr(cache, "folders", lambda: iter([tmp_path]))
    return tmp_path


@pytest.mark.parametrize(
    ("found", "tokenizer", "world_model"),
    [
        (timed(plain=(12.9, 20, 40)), PLAIN, PLAIN),
        (timed(plain=(12.9, 20, 40), triton=(9.5,)), TRITON, PLAIN),
        (timed(plain=(12.9, 20, 40), triton=(9.5,), compiled=(9, 15, 30)), COMPILED, COMPILED),
        (timed(plain=(12.9, 20, 40), triton=(9,), compiled=(9.5, 21, 30)), TRITON, COMPILED),  # M loses, C wins more
        (timed(plain=(12.9, 20, 40), triton=(12.8,), compiled=(20, 19, 45)), PLAIN, PLAIN),  # by less than the noise
        (timed(plain=(12.9, 20, 40), compiled=(9, 15)), COMPILED, PLAIN),  # C was not reached
    ],
)
def test_the_fastest_way_is_taken_by_what_it_saves_of_an_epoch(found, tokenizer, world_model):
    assert decide(found, UPDATES, torch.bfloat16) == (("tokenizer", tokenizer), ("world_model", world_model))


@pytest.mark.parametrize("figures", [(2.0, 0.52), (math.nan, 0.5), (2.0, math.inf), (2.0,)])
def test_a_way_that_does_not_agree_with_pytorch_is_out(figures):
    found = timed(plain=(12.9, 20, 40), triton=(9,))
    found[TRITON]["tokenizer"] = Timed(0.009, figures)
    assert dict(decide(found, UPDATES, torch.bfloat16))["tokenizer"] == PLAIN
    found[TRITON]["tokenizer"] = Timed(0.009, (2.01, 0.505))
    assert dict(decide(found, UPDATES, torch.bfloat16))["tokenizer"] == TRITON
    assert dict(decide(found, UPDATES, torch.float32))["tokenizer"] == PLAIN


def test_runs_compute_by_what_was_found_and_a_run_keeps_what_it_began_with(gpu):
    untuned = machine.compute_for(TINY)
    assert describe(untuned) == "Some GPU, bf16, not tuned"
    found = (("tokenizer", TRITON), ("world_model", PLAIN))
    tuned.keep(GPU, found)
    now = machine.compute_for(TINY)
    assert describe(now) == "Some GPU, bf16, tuned: tokenizer by Triton, world_model by PyTorch"
    for compute in (untuned, now):
        facts = {"device": describe(compute), "torch": torch.__version__}
        assert machine.compute_for(TINY, facts=facts) == compute
        assert machine.compute_for(TINY, facts=facts | {"torch": "2.99"}) == now
        assert machine.compute_for(TINY, facts=facts | {"device": "Another, bf16, not tuned"}) == now
    assert machine.compute_for(dataclasses.replace(TINY, compile=True)).tuned == ()
    (file,) = gpu.iterdir()
    for broken in ('{"tokenizer": "magic"}', '{"world_model": "Triton"}', '{"actor_critic": ["x"]}', "[]", "{"):
        file.write_text(broken)
        assert machine.compute_for(TINY).tuned == ()


def test_the_command_times_every_way_and_goes_on_where_one_fails(gpu, monkeypatch, capsys):
    def time_phase(name, config, compute):
        ((part, way),) = compute.tuned
        assert name in tuned.PHASES[part]
        if way == COMPILED:
            raise RuntimeError("no compiler\nat all")
        return Timed(0.009 if way == TRITON else 0.012, FOUND)

    monkeypatch.setattr(tuning, "time_phase", time_phase)
    monkeypatch.setattr(tuning, "has_triton", lambda: True)
    assert main(["machine", "--tune"]) == 0
    out = capsys.readouterr().out
    for line in ("tokenizer by PyTorch: 12 ms", "tokenizer by Triton: 9 ms", "world_model by torch.compile: failed, no",
                 "a run uses: Some GPU, bf16, tuned: tokenizer by Triton, world_model by PyTorch"):  # fmt: skip
        assert line in out
    assert "world_model by Triton" not in out
    assert json.loads(next(gpu.iterdir()).read_text()) == {"tokenizer": TRITON, "world_model": PLAIN}
    monkeypatch.setattr(tuning, "SECONDS", -1.0)
    assert main(["machine", "--tune"]) == 1
    assert "not tried, time is up" in capsys.readouterr().out


def test_on_a_cpu_there_is_nothing_to_tune(capsys, monkeypatch):
    monkeypatch.setattr(cache, "write", lambda *_, **__: pytest.fail("kept"))
    assert main(["machine", "--tune"]) == 0
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("name", tuned.PHASES)
def test_two_timings_of_a_phase_find_the_same(name, monkeypatch):
    monkeypatch.setattr(tuning, "REPETITIONS", 1)
    config = vary(TINY, "tokenizer", perceptual="none")
    one, two = (tuning.time_phase(name, config, Compute(torch.device("cpu"), torch.float32)) for _ in range(2))
    assert one.seconds > 0
    assert one.figures == two.figures
    assert all(map(math.isfinite, one.figures))
