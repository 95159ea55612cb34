"""`benchmarks sweeps`: fits by hand, each sweep changes one size alone, and the whole command at tiny sizes."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from benchmarks import measure as measure_module
from benchmarks import sweeps as module
from benchmarks.counting import count_flops
from benchmarks.growth import Curve, Point, Sweeps, in_words, power
from benchmarks.machine import kind as kind_of
from benchmarks.measure import Effort
from benchmarks.page import WALL
from benchmarks.sweeps_page import AXES, draw, markdown, section
from benchmarks.workload import Workload
from tokendream.config.config import vary
from tokendream.config.presets import PRESETS, REM, TINY
from tokendream.device import Compute
from tokendream.errors import ConfigError
from tokendream.kernels.machine import compute_for
from tokendream.training.synthetic import synthetic_replay

DOCS = Path(__file__).parents[1] / "docs"
FACTS = {
    "date": "2026-01-01T00:00:00",
    "commit": "abc",
    "device": "CPU",
    "processor": "some",
    "kind": "AMX",
    "torch": "2",
    "load": 0.1,
}


def read(path):
    data = json.loads(path.read_text())
    curves = [Curve(**{**c, "points": [Point(**p) for p in c["points"]]}) for c in data["curves"]]
    return Sweeps(**{**data, "curves": curves})


def curve(axis="tokens", law=lambda x: x**2, sizes=(16, 64, 256)):
    points = [Point(x, 10, [10.0 * law(x), 5.0 * law(x), 40.0 * law(x)], 10 * x) for x in sizes]
    return Curve(axis, "dream alone", "K = {}", "imagined step", "batch 16", points)


def found(*curves, left_out=()):
    return Sweeps("rem", True, WALL, "bf16", FACTS, list(curves), list(left_out))


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(module, "QUICK", Effort(least=1, most=1, seconds=0.0))
    monkeypatch.setattr(module, "REPLAY", 64)
    for name in ("BATCHES", "MEMORIES", "LAYERS"):
        monkeypatch.setattr(module, name, (1, 2))
    monkeypatch.setattr(module, "HEADS", (8, 16))
    monkeypatch.setattr(module, "SEGMENTS", (4, 6))
    monkeypatch.setattr(module, "HORIZONS", (2, 4))
    monkeypatch.setattr(measure_module, "SHORTEST", 0.0)


def test_growth_by_hand():
    c = curve()
    assert c.points[0].cost == pytest.approx((256, 128, 1024))
    assert c.exponent == pytest.approx((2, 2, 2))  # by rounds: what slows all sizes down leaves the exponent alone
    assert c.last_exponent == pytest.approx(2)
    assert c.arithmetic == pytest.approx(1)
    assert power([1, 10, 100], [5.0, 5.0, 5.0]) == 0
    kinked = curve(law=lambda x: max(64, x))
    assert kinked.last_exponent == pytest.approx(1)
    assert 0 < kinked.exponent.median < 1


@pytest.mark.parametrize(
    ("p", "words"),
    [(-0.5, "falls"), (0.05, "does not depend"), (0.5, "more slowly"), (1.0, "in proportion"), (1.3, "faster")],
)
def test_the_words_are_those_of_the_exponent(p, words):
    assert words in in_words(p, "K")
    (sentence,) = [text for text in markdown(found(curve(law=lambda x: x**p))) if text.startswith("- ")]
    assert words in sentence
    assert f"K^{p:.2f} (" in sentence
    times = 16**p
    assert f", {times:.3g} times as much." in sentence or f", {1 / times:.3g} times less." in sentence
    assert "-0.00" not in sentence


def test_the_page_lists_the_sizes_of_one_kind_and_a_print_those_of_any():
    for kind, plots, listed in (
        ("AMX", {"growth": "a.svg"}, True),
        ("ARM", {"growth": "a.svg"}, False),
        ("ARM", {}, True),
    ):
        text = "\n".join(markdown(dataclasses.replace(found(curve()), environment=FACTS | {"kind": kind}), plots))
        assert ("| dream alone, imagined step | K = 16 | " in text) == listed
        assert ("The JSON has every size" in text) != listed
        assert "- **Dream alone** (batch 16)" in text


def test_what_stays_the_same_is_said_so():
    (sentence,) = [text for text in markdown(found(curve(law=lambda x: 1 - x / 1e5))) if text.startswith("- ")]
    assert ", the same. The cost does not depend on K: it goes as K^0.00" in sentence


@pytest.mark.parametrize("name", PRESETS)
def test_a_sweep_changes_its_own_size_alone(name):
    """And every config it makes is one that a run would take."""
    seen = set()
    for sweep in module.sweeps(PRESETS[name]):
        first, *others = sweep.settings.values()
        seen.add((sweep.curve.axis, sweep.phase))
        for x, at in sweep.settings.items():
            c = at.config
            found = {"tokens": c.tokens_per_frame, "batch": at.batch, "layers": c.world_model.layers,
                     "width": c.world_model.width}  # fmt: skip
            found["length"] = {"world_model": c.world_model.segment_length, "dream": at.history,
                               "actor_critic": c.dream.horizon}.get(sweep.phase)  # fmt: skip
            assert found[sweep.curve.axis] == x
        halvings = first.config.tokenizer.downsamples
        for at in others:
            same = {
                "tokens": dataclasses.replace(at, config=vary(at.config, "tokenizer", downsamples=halvings)),
                "batch": dataclasses.replace(at, batch=first.batch),
                **dict.fromkeys(("layers", "width"), dataclasses.replace(at, config=first.config)),
                "length": dataclasses.replace(at, config=first.config, history=first.history),
            }  # fmt: skip
            assert same[sweep.curve.axis] == first
        assert list(sweep.settings) == sorted(sweep.settings)
        assert all(sweep.curve.axis == axis or text in sweep.curve.fixed for axis, text in (
            ("layers", "layers" if sweep.phase != "tokenizer" else "LPIPS"), ("tokens", "K = ")))  # fmt: skip
    assert {axis for axis, _ in seen} == set(AXES)
    assert {phase for _, phase in seen} == set(module.NAMES)
    assert seen >= {(axis, phase) for axis in AXES for phase in module.BATCH}


def test_what_must_not_grow_does_not():
    """A dreamed step after 4 blocks is the arithmetic of one after 1; a frame's does not depend on the batch."""
    replay = synthetic_replay(96, TINY.env.size, torch.device("cpu"))
    work = Workload(TINY, Compute.resolve("cpu"), replay)
    dreams = [work.dream(2, torch.float32, 2, history) for history in (1, 4)]
    updates = {batch: work.phase("world_model", batch, torch.float32) for batch in (1, 3)}
    with dreams[0].plain():
        steps = [count_flops(dream.run) for dream in dreams]
        frames = [count_flops(update.run) / batch for batch, update in updates.items()]
    assert steps[0] == steps[1]
    assert frames[0] == pytest.approx(frames[1], rel=1e-3)


def test_the_whole_command_at_tiny_sizes(short, tmp_path, monkeypatch):
    some = {
        "tokens": "world_model",
        "batch": "tokenizer",
        "length": "dream",
        "layers": "actor_critic",
        "width": "dream",
    }
    every = module.sweeps
    monkeypatch.setattr(module, "sweeps", lambda config: [s for s in every(config) if some[s.curve.axis] == s.phase])
    out, page = tmp_path / "new" / "sweeps-KIND.json", tmp_path / "speed.md"
    assert module.main(TINY, "cpu", quick=True, cpu_time=True, out=out, page=page) == 0
    kind = kind_of(compute_for(TINY, "cpu"))
    where, sweeps = section(kind), read(out.with_name(f"sweeps-{kind}.json"))
    assert sweeps.left_out == []
    assert [c.axis for c in sweeps.curves] == list(AXES)
    for c in sweeps.curves:
        assert len(c.points) == (3 if c.axis == "tokens" else 2)
        assert all(p.flops > 0 and p.units > 0 and all(s > 0 for s in p.seconds) for p in c.points)
        assert all(map(math.isfinite, (*c.exponent, c.last_exponent, c.arithmetic)))
    assert 0.9 < sweeps.of("tokens")[0].arithmetic < 1.3
    assert sweeps.of("length")[0].arithmetic == 0
    assert page.read_text() == "\n".join(
        [where.begin, *markdown(sweeps, {"growth": f"speed-growth-{kind}.svg"}), where.end, ""]
    )
    assert (tmp_path / f"speed-growth-{kind}.svg").read_text().startswith("<?xml")


def test_sizes_that_take_too_long_are_left_out_by_name(monkeypatch):
    sweep = next(s for s in module.sweeps(REM) if (s.curve.axis, s.phase) == ("length", "dream"))
    label = measure_module.Label("dream", torch.float32, 1, "", tokens=1)
    monkeypatch.setattr(module, "elapsed", lambda *_: 1.0)
    effort = Effort(least=1, most=1, seconds=0.0, longest=5.0)
    works, too_long = module._within(
        sweep, lambda *_: measure_module.Work(label, lambda: None), torch.device("cpu"), effort
    )
    assert (list(works), too_long, list(sweep.settings)) == ([1, 4, 16, 64], [], [1, 4, 16, 64])
    works, too_long = module._within(
        sweep,
        lambda _, at: measure_module.Work(dataclasses.replace(label, tokens=at.history**2), lambda: None),
        torch.device("cpu"),
        effort,
    )
    assert (list(works), too_long) == ([1], [4, 16, 64])
    assert sweep.called(too_long) == "dream alone at a memory of T = 4, a memory of T = 16, a memory of T = 64"
    said = "\n".join(markdown(found(left_out=[sweep.called([64])])))
    assert "**Left out for lack of time**: dream alone at a memory of T = 64." in said


def test_no_time_is_said_and_a_lone_point_is_no_growth(short, monkeypatch, capsys):
    monkeypatch.setattr(module, "QUICK", Effort(least=1, most=1, seconds=0.0, total=0.0))
    assert module.main(TINY, "cpu", quick=True, cpu_time=False, out=None, page=None) == 0
    assert "world-model update at K = 4, K = 16, K = 64; actor-critic update at" in capsys.readouterr().out
    assert draw(found()) == {}
    lone = found(curve(sizes=(16,)))
    assert draw(lone) == {}
    assert not any(text.startswith("- ") for text in markdown(lone))


def test_bad_arguments_are_named_before_anything_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "run", lambda *_, **__: pytest.fail("timed"))
    page = tmp_path / "speed.md"
    page.write_text("<!-- benchmarks speed: begin -->\n<!-- benchmarks speed: end -->\n")  # another command's
    good = {"config": TINY, "device": "cpu", "quick": True, "cpu_time": False, "out": None, "page": None}
    for flags, message in (
        ({"page": page}, "speed.md has no place for the tables"),
        ({"out": tmp_path}, "--out must be a file"),
        ({"device": "tpu"}, "device must be"),
        ({"config": vary(vary(TINY, "env", size=32), "tokenizer", downsamples=1)}, "has no grids"),
    ):
        with pytest.raises(ConfigError, match=message):
            module.main(**(good | flags))


@pytest.mark.parametrize("kind", ["AMX", "AVX-512", "AVX2", "ARM", "GPU"])
def test_there_is_a_place_for_every_kind_of_processor(kind):
    section(kind).check(DOCS / "speed.md")


@pytest.mark.parametrize("file", sorted(DOCS.glob("speed-sweeps-*.json")), ids=lambda file: file.stem)
def test_the_committed_section_is_what_the_committed_figures_say(file):
    sweeps, kind = read(file), file.stem.removeprefix("speed-sweeps-")
    assert sweeps.environment["kind"] == kind
    text = (DOCS / "speed.md").read_text().partition(section(kind).begin)[2].partition(section(kind).end)[0]
    assert text == "\n" + "\n".join(markdown(sweeps, {"growth": f"speed-growth-{kind}.svg"})) + "\n"
    drawn = (DOCS / f"speed-growth-{kind}.svg").read_text()  # not compared as a whole: matplotlib's versions differ
    for c in sweeps.curves:
        assert f": {AXES[c.axis][0]}^{c.exponent.median:z.2f}<" in drawn
