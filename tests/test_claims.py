"""`benchmarks claims`: its arithmetic by hand, its page, and the whole command at tiny sizes."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from benchmarks import claims as claims_module
from benchmarks import measure as measure_module
from benchmarks.claims_page import SECTION, draw, markdown, summary
from benchmarks.figures import ABSORB, FOUR, IRIS, NO_POP, REM, TRANSFORMER_POP, Cell, Claims
from benchmarks.measure import Effort
from benchmarks.page import WALL, Section
from tokendream.agent.agent import Agent
from tokendream.config.config import vary
from tokendream.config.presets import PRESETS, TINY
from tokendream.envs.registry import make
from tokendream.errors import ConfigError

SMALL = vary(vary(TINY, "world_model", layers=1, segment_length=3), "dream", horizon=2, burn_in=1)
DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = SECTION.begin, SECTION.end


def read(path):
    data = json.loads(path.read_text())
    return Claims(**{**data, "cells": [Cell(**cell) for cell in data["cells"]]})


def write_page(claims, page):
    return SECTION.write(page, draw(claims), lambda plots: markdown(claims, plots))


def cell(kind="dream", K=64, batch=16, history=5.0, **seconds):
    times = {REM: [0.1, 0.2, 0.1], NO_POP: [0.4, 0.4, 0.6], TRANSFORMER_POP: [0.2] * 3, IRIS: [1.0] * 3}
    times = {name: seconds.get("all", value) for name, value in times.items()}
    if kind == "dream":
        times[ABSORB] = [0.1, 0.1, 0.1]
    return Cell(kind, K, batch, batch, history, times, dict.fromkeys(times, 2e9))


@pytest.fixture
def found():
    facts = {"date": "2026-01-01T00:00:00", "commit": "abc", "device": "CPU", "processor": "some", "torch": "2"}
    cells = [
        cell(),
        cell(batch=1),
        cell("training", history=0.0),
        cell("memory", history=1.5),
        cell("memory", history=9.5, all=[0.4] * 3),
    ]
    return Claims("rem", True, WALL, facts, 64, dict.fromkeys(FOUR, 1000), frames=100, steps=50,
                  phases={"collection": 1.0, "tokenizer": 2.0, "controller": 3.0}, cells=cells)  # fmt: skip


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(claims_module, "QUICK", Effort(least=1, most=1, seconds=0.0))
    monkeypatch.setattr(claims_module, "REPLAY", 64)
    monkeypatch.setattr(claims_module, "BATCHES", (2,))
    monkeypatch.setattr(claims_module, "MEMORIES", (2,))
    monkeypatch.setattr(claims_module, "DOWNSAMPLES", (1, 0))  # without the largest grid, which takes most of the time
    monkeypatch.setattr(measure_module, "SHORTEST", 0.0)


def test_by_hand(found):
    one = found.of("dream")[-1]
    assert one.rate(REM) == (10.0, 5.0, 10.0)
    assert one.times_as_fast(REM, NO_POP) == pytest.approx((4.0, 2.0, 6.0))
    assert [c.batch for c in found.of("dream")] == [1, 16]
    assert found.epoch(IRIS) == {"collection": 1.0, "tokenizer": 2.0, "world model": 100.0, "dream": 50.0,
                                 "actor-critic": 3.0, "total": 156.0}  # fmt: skip
    found.cells = [c for c in found.cells if c.kind != "training"]
    assert found.epoch(IRIS) == {}


def test_the_page_says_which_published_figure_is_which(found):
    text = "\n".join(markdown(found))
    assert "without POP: 4.6x) | 4, 4 |" in text
    assert "that agent: 15.4x) | 10, 10 |" in text
    assert "| the last against the first | 4.00x | 1.00x |" in text
    assert "Left out" not in text
    found.left_out.append("dream, 256 tokens, batch 128")
    assert "lack of time**: dream, 256 tokens, batch 128." in "\n".join(markdown(found))


def test_the_summary_has_a_line_a_question(found):
    text = "\n".join(summary(found, Section("claims --env some")))
    assert text.startswith("`python -m benchmarks claims --env some --preset rem --quick")
    assert (
        "|  | imagined steps a second, batch 1, 16 | frames of training a second, batch 16 | seconds of an epoch |"
        in text
    )
    assert "| What POP gives RetNet | 4x (2–6), 4x (2–6) | 4x (2–6) | 21 instead of 66 |" in text
    found.cells = [c for c in found.cells if c.kind == "dream"]
    assert "| What POP gives RetNet | 4x (2–6), 4x (2–6) |  |" in "\n".join(summary(found, SECTION))
    assert len([*summary(found, SECTION)]) == 12


def test_refreshing_a_page_changes_what_is_between_its_markers_only(found, tmp_path):
    page = tmp_path / "claims.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    written = write_page(found, page)
    assert [path.name for path in written] == ["claims.md", "claims-speedup.svg", "claims-memory.svg"]
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n`python -m benchmarks claims --preset rem --quick`")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "](claims-speedup.svg)" in text
    write_page(found, page)
    assert page.read_text() == text
    new = write_page(found, tmp_path / "new.md")[0].read_text()
    assert new.startswith(BEGIN)
    assert new.endswith(END + "\n")


def test_a_plot_needs_something_to_show(found):
    found.cells = []
    assert draw(found) == {}
    text = "\n".join(markdown(found))
    assert [line for line in text.splitlines() if line.startswith("#")] == ["### Parameters and arithmetic"]


def test_the_whole_command_at_tiny_sizes(short, tmp_path):
    out, page = tmp_path / "new" / "claims.json", tmp_path / "claims.md"
    assert claims_module.main(SMALL, "cpu", quick=True, cpu_time=True, out=out, page=page) == 0
    found = read(out)
    assert {(c.kind, c.K) for c in found.cells} == {
        *((kind, K) for kind in ("dream", "training") for K in (4, 16)),
        ("memory", 16),
    }
    for c in found.cells:
        assert set(c.seconds) - {ABSORB} == set(c.flops) - {ABSORB} == set(FOUR)
        assert all(math.isfinite(s) and s > 0 for times in c.seconds.values() for s in times)
        assert all(flops > 0 for flops in c.flops.values())
        assert c.kind != "dream" or c.flops[ABSORB] < c.flops[NO_POP]
    assert found.left_out == []
    assert all(set(found.epoch(name)) >= {"collection", "world model", "dream", "total"} for name in FOUR)
    # The prediction tokens are M's only ones that depend on the decoding, qkvg and qkv its only ones by backbone.
    own = TINY.tokens_per_frame * TINY.world_model.width
    assert found.parameters[REM] - found.parameters[NO_POP] == own
    assert found.parameters[TRANSFORMER_POP] - found.parameters[IRIS] == own
    assert page.read_text() == "\n".join(
        [BEGIN, *markdown(found, {n: f"claims-{n}.svg" for n in draw(found)}), END, ""]
    )


def test_what_an_environment_shows_is_timed_at_its_own_number_of_tokens(short, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(claims_module, "MEMORIES", ())
    page, env = tmp_path / "page.md", "any_spaces:AnyNested-v0"
    page.write_text(f"<!-- benchmarks claims --env {env}: begin -->\n<!-- benchmarks claims --env {env}: end -->\n")
    timing = {"quick": True, "cpu_time": True, "out": None, "env": env}
    assert claims_module.main(SMALL, "cpu", page=page, **timing) == 0
    text = page.read_text()
    assert f"`python -m benchmarks claims --env {env} --preset tiny --quick" in text
    envs = make(vary(SMALL, "env", id=env), 1, evaluation=False)
    K = Agent.from_config(SMALL, envs.spaces).world_model.block.K
    assert f"with K = {K} tokens a frame:\n\n|  | imagined steps a second, batch 2 | " in text
    assert list(tmp_path.iterdir()) == [page]
    capsys.readouterr()
    assert claims_module.main(SMALL, "cpu", page=None, **timing) == 0
    assert f"| {K} | 2 | " in capsys.readouterr().out  # without a page, all of it


def test_what_no_time_is_left_for_is_said(short, monkeypatch, capsys):
    monkeypatch.setattr(claims_module, "QUICK", Effort(least=1, most=1, seconds=0.0, total=0.0))
    windows = vary(TINY, "world_model", shortest_window=2.0, longest_window=4.0)  # a Transformer has none
    assert claims_module.main(windows, "cpu", quick=True, cpu_time=False, out=None, page=None) == 0
    assert (
        "Left out for lack of time**: dream, 4 tokens, batch 2; training, 4 tokens, batch 2" in capsys.readouterr().out
    )


def test_where_a_batch_takes_too_long_no_larger_one_is_tried(monkeypatch):
    tried = []
    monkeypatch.setattr(claims_module, "fitting_batch", lambda build, batch, *_: tried.append(batch) or 1)
    bench = claims_module._Bench(TINY, claims_module.Compute.resolve("cpu"), claims_module.QUICK, None)
    small = bench._grids[0]
    assert bench._trainer(small, 16)() is None  # a batch of one has a row already
    assert bench._trainer(small, 128)() is None
    assert tried == [16] * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"page": "prose.md"}, "prose.md has no place for the tables"),
        ({"page": "."}, "--page must be a file"),
        ({"out": "."}, "--out must be a file"),
        ({"device": "tpu"}, "device must be"),
        ({"threads": 2, "cpu_time": True}, "--cpu-time needs a CPU and one thread"),
        ({"downsamples": 1}, "preset tiny has no grids of half and of twice its side: try rem"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_timed(changes, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(claims_module, "run", lambda *_, **__: pytest.fail("timed"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: changes.get("threads", 1))
    Path("prose.md").write_text("nothing but prose\n")
    config = TINY
    if "downsamples" in changes:
        config = dataclasses.replace(
            TINY,
            env=dataclasses.replace(TINY.env, size=32),
            tokenizer=dataclasses.replace(TINY.tokenizer, downsamples=1),
        )
    with pytest.raises(ConfigError, match=message):
        claims_module.main(
            config, changes.get("device", "cpu"), quick=True, cpu_time=changes.get("cpu_time", False),
            out=Path(changes["out"]) if "out" in changes else None,
            page=Path(changes["page"]) if "page" in changes else None,
        )  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_its_three_grids(name):
    grids = claims_module._Bench(PRESETS[name], claims_module.Compute.resolve("cpu"), claims_module.QUICK, None)._grids
    small, own, large = (grid.tokens_per_frame for grid in grids)
    assert (4 * small, large) == (own, 4 * own)


def test_the_committed_page_is_what_the_committed_figures_say():
    found = read(DOCS / "claims.json")
    text = (DOCS / "claims.md").read_text()
    plots = {name: f"claims-{name}.svg" for name in ("speedup", "memory")}
    assert text.partition(BEGIN)[2].partition(END)[0] == "\n" + "\n".join(markdown(found, plots)) + "\n"
    assert all((DOCS / file).is_file() for file in plots.values())


@pytest.mark.parametrize(("file", "env"), [("control", "dmc:cartpole-swingup"), ("grid", "minatar:Breakout")])
def test_the_committed_summaries_are_what_the_committed_figures_say(file, env):
    section = Section(f"claims --env {env}")
    text = (DOCS / "claims.md").read_text().partition(section.begin)[2].partition(section.end)[0]
    assert text == "\n" + "\n".join(summary(read(DOCS / f"claims-{file}.json"), section)) + "\n"
