"""docs/speed.md's table of phases: counted bytes, the figures beside the published ones, and the page as committed."""

import copy
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks import machine
from benchmarks.counting import Traffic, count, count_flops
from benchmarks.page import Section
from benchmarks.reference import PUBLISHED, TARGETS
from benchmarks.speed_page import markdown, titled
from tokendream.config.presets import REM

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(params=sorted(path.stem.removeprefix("speed-") for path in DOCS.glob("speed-[A-Z]*.json")))
def kind(request):
    """A kind of processor whose figures are committed."""
    return request.param


@pytest.fixture
def data(kind):
    return json.loads((DOCS / f"speed-{kind}.json").read_text())


def moved(run):
    with Traffic() as traffic:
        run()
    return traffic.bytes


def test_every_operand_and_result_is_moved_once():
    a, b, n = torch.randn(8, 16), torch.randn(8, 16), 8 * 16 * 4
    assert moved(lambda: a + b) == 3 * n
    assert moved(lambda: a @ b.T) == 2 * n + 8 * 8 * 4
    assert moved(lambda: a.clone()) == 2 * n
    assert moved(lambda: torch.cat((a, b))) == 4 * n
    assert moved(lambda: torch.zeros(8, 16)) == n
    assert moved(lambda: a.add_(1)) == 2 * n  # read and written
    assert moved(lambda: a.copy_(b)) == 2 * n  # what a was is not read
    assert moved(lambda: torch.add(a, 1, out=b)) >= 2 * n
    assert moved(lambda: torch._foreach_mul_([a, b], 2.0)) == 4 * n


def test_views_and_memory_that_nobody_wrote_cost_nothing():
    a = torch.randn(8, 16)
    assert moved(lambda: a.T[2:].unflatten(0, (7, 2)).unsqueeze(0).expand(5, -1, -1, -1)) == 0
    assert moved(lambda: torch.empty(8, 16)) == 0
    row = torch.randn(16)
    assert moved(lambda: row.expand(8, 16) + 1) == 16 * 4 + 8 * 16 * 4  # read once, however often it is used


def test_a_gather_reads_what_it_takes():
    table = torch.randn(1000, 4)
    assert moved(lambda: table[torch.tensor([1, 2])]) <= 2 * (2 * 4 * 4) + 2 * 2 * 8
    assert moved(lambda: F.embedding(torch.tensor([1, 2]), table)) <= 2 * (2 * 4 * 4) + 2 * 2 * 8


def test_gradients_are_moved_too_and_operations_are_counted_beside():
    layer, x = torch.nn.Linear(16, 16, bias=False), torch.randn(4, 16)
    forward = moved(lambda: layer(x))
    assert forward == (4 * 16 + 16 * 16 + 4 * 16) * 4
    assert moved(lambda: layer(x).sum().backward()) > 2 * forward
    assert count(lambda: layer(x)) == (2 * 4 * 16 * 16, forward)
    a, b = torch.randn(3, 4, 5), torch.randn(3, 5, 6)
    assert count_flops(lambda: torch.zeros(3, 4, 6).baddbmm_(a, b)) == count_flops(lambda: a @ b) == 2 * 3 * 4 * 5 * 6


def test_copies_are_timed_by_the_clock_that_is_given(monkeypatch):
    monkeypatch.setattr(machine, "COPIED", 1000)
    ticks = iter(range(1000))
    assert machine.copy_bandwidth(torch.device("cpu"), 0.0, clock=lambda: float(next(ticks))) == 2000


def test_ours_published_ratio_and_target_by_hand(data):
    row = next(copy.deepcopy(r) for r in data["rows"] if r["name"] == "world_model")
    row |= {"batch": 8, "frames_per_s": 60.0, "precision": "bf16"}
    row["published"] = {"rate": 30.0, "machine": "there", "target": 240.0}
    data["rows"] = [row]
    data["peak_tflops"].setdefault("bf16", 1.0)
    text = "\n".join(markdown(data))
    assert "| world_model, bf16 | 8 | frames/s | 60 | 30 | 2.0x | 240 | no |" in text
    row["frames_per_s"] = 241.0
    assert "| 241 | 30 | 8.0x | 240 | yes |" in "\n".join(markdown(data))
    row["precision"] = "float32"  # the target is for what training uses here
    assert "| 8.0x |  |  |" in "\n".join(markdown(data))
    del row["published"]
    assert "Against the published" not in "\n".join(markdown(data))


def test_every_target_has_a_published_figure_and_is_larger():
    assert all(target >= 5 * PUBLISHED[work] for work, target in TARGETS.items())


def test_a_machine_that_is_shared_is_said(data):
    busy, quiet = ({**data, "environment": {**data["environment"], "load": load}} for load in (3.0, 0.2))
    assert "was shared at the time" in "\n".join(markdown(busy))
    assert "was shared at the time" not in "\n".join(markdown(quiet))
    assert "load average 3 at the start" in next(markdown(busy))


def test_nothing_is_said_of_what_was_not_measured(data):
    data |= {"rows": [], "comparisons": [], "epoch_seconds": {}, "profiles": {}, "skipped": ["dream"]}
    text = "\n".join(markdown(data))
    assert "#" not in text
    assert "**Left out for lack of time**: dream." in text


def test_the_floor_by_hand_is_nearly_what_was_counted(data):
    """The layers' matrices are most of it, and what the last layer saves is less than what the rest adds."""
    rows = {row["name"]: row for row in reversed(data["rows"])}  # the first of a name is as training runs
    M, K1 = REM.world_model, REM.tokens_per_frame + 1
    weights = 13 * REM.world_model.width**2 * M.layers
    blocks = {"world_model": 3 * (2 * M.segment_length - M.context), "dream": 2 * REM.dream.horizon}
    for name, n in blocks.items():
        row = rows[name]
        assert row["flop"] == pytest.approx(2 * row["batch"] * n * K1 * weights, rel=0.25)
    text = "\n".join(markdown(data))
    assert f"{2 * rows['dream']['batch'] * blocks['dream'] * K1 * weights / 1e9:,.0f} GFLOP, of" in text
    assert "**The H100's columns were not measured**" in text


def test_the_committed_section_is_what_the_committed_figures_say(data, kind):
    assert data["environment"]["kind"] == kind
    section = Section("speed", kind)
    text = (DOCS / "speed.md").read_text().partition(section.begin)[2].partition(section.end)[0]
    assert text == "\n" + "\n".join(titled(data)) + "\n"


@pytest.mark.parametrize("kind", ["AMX", "AVX-512", "AVX2", "ARM", "GPU"])
def test_there_is_a_place_for_every_kind_of_processor(kind):
    Section("speed", kind).check(DOCS / "speed.md")
