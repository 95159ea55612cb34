import dataclasses
import json
import math

import pytest
import torch

from benchmarks import measure as measure_module
from benchmarks import report, speed
from benchmarks.__main__ import main
from benchmarks.command import begin
from benchmarks.counting import count_flops
from benchmarks.machine import environment
from benchmarks.machine import kind as kind_of
from benchmarks.measure import Effort, Label, Row, Work, fitting_batch, measure
from benchmarks.page import WALL, Section
from benchmarks.profiling import top_operators
from benchmarks.speed_page import titled
from benchmarks.workload import Workload
from tokendream.config.config import vary
from tokendream.config.presets import PRESETS, REM, TINY, preset
from tokendream.device import Compute
from tokendream.errors import ConfigError
from tokendream.kernels import machine
from tokendream.kernels.cpu import build
from tokendream.kernels.cpu.fused import FUSED
from tokendream.kernels.machine import OWN, Calibration, compute_for
from tokendream.nn.retnet import RetNet
from tokendream.training.synthetic import synthetic_replay

CPU = torch.device("cpu")
FLOAT32 = torch.float32
SMALL = vary(vary(TINY, "world_model", layers=1, segment_length=3), "dream", horizon=2, burn_in=1)


@pytest.fixture
def workload():
    return Workload(TINY, Compute(CPU, FLOAT32), synthetic_replay(96, TINY.env.size, CPU))


def work(run, batch=1):
    return Work(Label("nothing", FLOAT32, batch, "nothing", frames=batch), run)


def leaves(data):
    if isinstance(data, dict):
        for value in data.values():
            yield from leaves(value)
    elif isinstance(data, list):
        for value in data:
            yield from leaves(value)
    else:
        yield data


def test_a_bench_finds_finite_positive_figures_for_every_phase(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(speed, "QUICK", Effort(least=2, most=2, seconds=0.0))
    monkeypatch.setattr(speed, "QUICK_ROWS", 64)
    monkeypatch.setattr("benchmarks.machine.COPIED", 2**24)
    monkeypatch.setattr(speed, "matmul_peak", lambda *_, **__: 1e9)
    monkeypatch.setattr(measure_module, "SHORTEST", 0.0)
    kind = kind_of(compute_for(TINY, "cpu"))
    out, section = tmp_path / "new" / f"bench-{kind}.json", Section("speed", kind)
    page = tmp_path / "speed.md"
    page.write_text(f"before\n{section.begin}\nold\n{section.end}\nafter\n")
    assert speed.main(SMALL, "cpu", quick=True, profile=True, out=out.with_name("bench-KIND.json"), page=page) == 0
    data = json.loads(out.read_text())
    assert page.read_text() == "\n".join(["before", section.begin, *titled(data), section.end, "after", ""])

    rows = data["rows"]
    assert {"collect", "tokenizer", "world_model", "actor_critic", "dream", "dream by tokens", "encode", "policy"} <= {
        row["name"] for row in rows
    }
    for row in rows:
        figures = [
            value for value in leaves({k: row[k] for k in row if k != "published"}) if not isinstance(value, str)
        ]
        assert len(figures) >= 10
        assert all(math.isfinite(value) and value > 0 for value in figures), row
        assert row["seconds"]["min"] <= row["seconds"]["median"] <= row["seconds"]["max"]
        assert "published" not in row  # other sizes than the published ones
    bf16 = {"bf16"} if compute_for(TINY, "cpu").dtype is torch.bfloat16 else set()
    kernels = {"own kernels"} if build.why_not() is None else set()
    assert {c["fast"] for c in data["comparisons"]} == {"POP", "sampled"} | kernels | bf16
    parts = dict(data["epoch_seconds"])
    assert parts.pop("total") == pytest.approx(sum(parts.values()))
    assert set(data["profiles"]) == {"collect", "tokenizer", "world_model", "actor_critic", "dream"}
    assert all(0 < len(found) <= 12 for found in data["profiles"].values())
    assert data["skipped"] == []
    assert {"device", "torch", "threads", "commit", "date", "load", "cores"} <= data["environment"].keys()
    assert data["clock"] == WALL
    assert data["copy_gb_per_s"] > 0.1
    assert [path.name for path in out.parent.iterdir()] == [out.name]

    said = capfd.readouterr()
    assert said.out == f"Written to {out}\nWritten to {page}\n"
    assert "world_model, float32" in page.read_text()
    assert "profiler" not in said.err


def test_work_is_timed_as_a_run_would_do_it(workload, monkeypatch):
    """Where own kernels are slower than PyTorch and one thread is the fastest number."""
    taken, threads = [], {"8": 1.0, "1": 0.1}
    slower = Calibration({}, 1.0, {"float32": 0.05, "float32" + OWN: 0.06}, threads)
    monkeypatch.setattr(machine, "calibration", lambda **_: slower)
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.delenv("OMP_NUM_THREADS")
    compute = begin(TINY, "cpu", cpu_time=False, out=None, page=None)
    assert (compute.kernels, taken) == (False, [1])
    plain = Workload(TINY, compute, workload._replay)
    plain.phase("world_model", 2, FLOAT32)
    assert not {type(module) for module in plain._agent.modules()} & set(FUSED.values())


def test_works_are_of_what_the_preset_plays_and_has():
    """A vector of five features is five tokens; without POP nothing is compared with it."""
    compute = compute_for(TINY, "cpu")

    def titles(config):
        return {item.title: item for item in speed.items(config, compute, quick=True)}

    without = titles(vary(preset("tiny-no-pop"), "env", id="any_spaces:AnyVector-v0"))
    assert without["encode"].builds[0](3).label.tokens == 3 * 5
    assert titles(preset("tiny-one-prediction-token")).keys() - without.keys() == {
        "dream by tokens, batch 2", "dream, copy or sample",
    }  # fmt: skip


@pytest.mark.parametrize("command", ["claims", "sweeps", "gpu"])
def test_where_images_are_timed_a_preset_without_one_is_refused(command, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "tiny", vary(TINY, "env", id="any_spaces:AnyVector-v0"))
    assert main([command, "--preset", "tiny", "--device", "cpu"]) == 2
    wanted = "preset tiny plays without an image: try claims --preset tiny --env any_spaces:AnyVector-v0"
    assert wanted in capsys.readouterr().err


def test_bad_arguments_are_named_before_anything_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "run", lambda *_, **__: pytest.fail("timed"))
    with pytest.raises(ConfigError, match="folder"):
        speed.main(TINY, "cpu", quick=True, profile=False, out=tmp_path)
    with pytest.raises(ConfigError, match="device"):
        speed.main(TINY, "tpu", quick=True, profile=False, out=None)
    page = tmp_path / "prose.md"
    page.write_text("nothing but prose\n")
    with pytest.raises(ConfigError, match=r"prose\.md has no place for the tables"):
        speed.main(TINY, "cpu", quick=True, profile=False, out=None, page=page)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(ConfigError, match="--cpu-time needs a CPU and one thread"):
        speed.main(TINY, "cpu", quick=True, profile=False, out=None, cpu_time=True)


@pytest.mark.parametrize(
    ("limit", "kind"),
    [("AVX2", "AVX2"), ("AVX512_CORE_VNNI", "AVX-512"), ("avx2_vnni", "AVX2"), ("AVX512_CORE_AMX", "its own"),
     ("DEFAULT", "its own")],
)  # fmt: skip
def test_figures_of_a_processor_that_is_kept_to_less_are_those_of_a_lesser_kind(limit, kind, monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    monkeypatch.setattr("benchmarks.machine.kind_of_processor", lambda device: "its own")
    monkeypatch.setattr("tokendream.runfolder.folder.kind_of_processor", lambda device: "its own")
    found = environment(compute_for(TINY, "cpu"))
    assert found["kind"] == kind
    assert found["processor"].endswith(f", kept to {kind}") == (kind != "its own")


@pytest.fixture
def peaks(monkeypatch):
    """Nobody waits for the machine's own."""
    monkeypatch.setattr(speed, "matmul_peak", lambda *_, **__: 1e9)
    monkeypatch.setattr(speed, "copy_bandwidth", lambda *_, **__: 1e9)


def test_what_no_time_is_left_for_is_said(peaks, monkeypatch, capsys):
    monkeypatch.setattr(speed, "QUICK", Effort(least=2, most=2, seconds=0.0, total=0.0))
    assert speed.main(TINY, "cpu", quick=True, profile=False, out=None) == 0
    assert "**Left out for lack of time**: collect; tokenizer" in capsys.readouterr().out


def test_one_thing_is_timed_alone(peaks, monkeypatch, capsys):
    monkeypatch.setattr(speed, "QUICK", Effort(least=2, most=2, seconds=0.0))
    assert speed.main(TINY, "cpu", quick=True, profile=False, out=None, only="dream, copy or sample") == 0
    out = capsys.readouterr().out
    assert '--quick --only "dream, copy or sample"`' in out
    assert "tokenizer" not in out
    with pytest.raises(ConfigError, match="--only must be a title; nearest: world_model"):
        speed.main(TINY, "cpu", quick=True, profile=False, out=None, only="wold_model")


def test_pop_costs_its_analytic_operations():
    """13 D² multiply-adds a token for the layer's matrices, 2 K1 D + d D for retention, d D a token that is kept."""
    B, T, P, K, D, layers, heads = 2, 3, 2, 6, 32, 2, 4
    K1, d = K + 1, D // heads
    net = RetNet(D, layers, heads, 4, 0.0).eval()
    x, u = torch.randn(B, T, K1, D), torch.randn(K, D)
    counted = count_flops(lambda: net.pop(x, u, net.initial_state(B), slice(0, P)))
    each = B * (T + P) * K1 * (13 * D**2 + 2 * K1 * D + d * D) + B * T * K1 * d * D
    assert counted == 2 * layers * each


def test_at_the_paper_sizes_pop_is_nearly_all_matrices():
    net = RetNet(256, 1, 4, 4, 0.0).eval()
    x, u = torch.randn(2, 1, 65, 256), torch.randn(64, 256)
    with torch.no_grad():
        counted = count_flops(lambda: net.pop(x, u, net.initial_state(2)))
    assert counted == pytest.approx(2 * 13 * 256**2 * 2 * 2 * 65, rel=0.08)
    assert counted > 2 * 13 * 256**2 * 2 * 2 * 65


def test_a_gradient_costs_twice_its_forward_pass():
    layer = torch.nn.Linear(16, 16)
    x = torch.randn(4, 16, requires_grad=True)
    forward = count_flops(lambda: layer(x))
    assert forward == 2 * 4 * 16 * 16
    assert count_flops(lambda: layer(x).sum().backward()) == 3 * forward


def test_a_dream_costs_what_its_label_says(workload):
    """Steps are counted alike with both decodings; by tokens, the last of a frame is sampled and not absorbed twice."""
    B, horizon, K = 3, 2, TINY.tokens_per_frame
    token, replay = vary(TINY, "world_model", decoding="token"), synthetic_replay(96, TINY.env.size, CPU)
    by_tokens = Workload(token, Compute(CPU, FLOAT32), replay)
    pop, sequential = (w.dream(B, FLOAT32, horizon, history=3) for w in (workload, by_tokens))
    assert pop.label.imagined == sequential.label.imagined == B * horizon
    assert pop.label.tokens - sequential.label.tokens == B * horizon
    assert pop.run().tokens.shape == sequential.run().tokens.shape == (B, horizon, K)


def test_each_phase_is_the_trainers_own_at_any_batch(workload):
    for name in ("collect", "tokenizer", "world_model", "actor_critic"):
        figures = workload.phase(name, 3, FLOAT32).run()
        assert name == "collect" or all(math.isfinite(value) for value in figures.values())
    assert workload.phase("world_model", 3, FLOAT32).label.frames == 3 * TINY.world_model.segment_length
    works = [workload.phase("actor_critic", batch, FLOAT32) for batch in (2, 4)]
    with works[0].plain():
        small, large = (count_flops(work.run) for work in works)
    assert large == pytest.approx(2 * small, rel=0.01)


def test_work_is_timed_in_turn_after_a_warm_up():
    calls = []
    works = [work(lambda: calls.append("a")), work(lambda: calls.append("b"))]
    rows = measure(works, CPU, Effort(least=3, most=3, seconds=0.0))
    assert [len(row.seconds) for row in rows] == [3, 3]
    turns = "".join(calls).replace("aa", "a").replace("bb", "b")
    while "aa" in turns or "bb" in turns:  # short work is repeated within a turn
        turns = turns.replace("aa", "a").replace("bb", "b")
    assert turns == "abababab"


def test_a_batch_is_halved_until_its_update_is_short_enough(monkeypatch):
    monkeypatch.setattr("benchmarks.measure.elapsed", lambda run, device, times=1, clock=None: run())
    effort = Effort(least=1, most=1, seconds=0.0, longest=8.0)
    assert fitting_batch(lambda batch: work(lambda: 0.1 * batch), 64, CPU, effort) == 64
    assert fitting_batch(lambda batch: work(lambda: 0.2 * batch), 128, CPU, effort) == 32
    assert fitting_batch(lambda batch: work(lambda: 100.0 * batch), 6, CPU, effort) == 1
    endless = dataclasses.replace(effort, longest=math.inf)
    assert fitting_batch(lambda batch: work(lambda: 100.0 * batch), 6, CPU, endless) == 6


def test_published_figures_stand_only_beside_the_same_work():
    row = Row(Label("world_model", FLOAT32, 8, "8 segments x 10", frames=80), (1.0,), 1, 1, 1)
    other = Row(dataclasses.replace(row.label, batch=16), (1.0,), 1, 1, 1)
    amx = {"kind": "AMX"}
    rem = report.Findings(REM, True, amx, CPU, FLOAT32)
    assert rem.published(row) == 30
    assert rem.published(other) is None
    assert report.Findings(TINY, True, amx, CPU, FLOAT32).published(row) is None
    assert report.Findings(REM, True, {"kind": "AVX2"}, CPU, FLOAT32).published(row) is None
    assert report.Findings(REM, True, {"kind": "GPU"}, torch.device("cuda"), FLOAT32).published(row) is None
    short = Row(Label("dream", FLOAT32, 16, "16 dreams x 2", imagined=32), (1.0,), 1, 1, 1)
    assert rem.published(short) is None


def test_the_profile_names_what_ran():
    a = torch.randn(64, 64)
    found = top_operators(lambda: a @ a, CPU)
    assert found[0].name == "aten::mm"
    assert found[0].calls == 1
    assert 0 < sum(operator.share for operator in found) <= 1 + 1e-9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and GPU_TESTS=1")
def test_a_bench_on_the_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "QUICK", Effort(least=2, most=2, seconds=0.0))
    out = tmp_path / "bench.json"
    assert speed.main(TINY, "cuda", quick=True, profile=True, out=out) == 0
    data = json.loads(out.read_text())
    assert all(row["peak_memory_bytes"] > 0 and row["tflops"] > 0 for row in data["rows"])


def test_attention_is_counted():
    """Two products of L x L x d a head, and two and a half times as much backwards."""
    B, H, L, d = 2, 4, 8, 16
    q, k, v = (torch.randn(B, H, L, d, requires_grad=True) for _ in range(3))

    def attend():
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    forward = 2 * 2 * B * H * L * L * d
    assert count_flops(attend) == forward
    assert count_flops(lambda: attend().sum().backward()) == forward * 7 / 2
