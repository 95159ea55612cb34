"""Why is it not better: the worst figure against what is healthy, in words, with a flag that there is."""

import dataclasses
import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure as Drawing
from playing import make_run

from tokendream.cli.flags import parse_train
from tokendream.cli.main import main
from tokendream.config.config import leaves, vary
from tokendream.config.presets import CPU, REM, preset
from tokendream.evaluation.diagnosis.figures import Bars, Figure, PartFigures
from tokendream.evaluation.diagnosis.verdict import CAUSES, STUCK, TIMID, findings
from tokendream.reports import diagnose, diagnosis_page
from tokendream.reports.diagnosis_page import why
from tokendream.reports.results import RunFolder
from tokendream.reports.run_page import write_report
from tokendream.runfolder.files import CheckpointError

TRAINED_V = vary(CPU, "tokenizer", kind="vq")

STORED = Path(__file__).parents[1] / "results" / "two-cores"


def part(title: str, **figures: tuple[float, ...]) -> PartFigures:
    """Value, bound and worst by a figure's name, `_` for a space."""
    return PartFigures(
        title,
        tuple(Figure(name.replace("_", " "), float(v), "…", float(b), float(w)) for name, (v, b, w) in figures.items()),
    )


def test_a_shortfall_is_0_up_to_the_bound_and_1_from_the_worst_on():
    for value, expected in ((25.0, 0), (30.0, 0), (17.5, 0.5), (10.0, 1), (0.0, 1)):
        assert Figure("PSNR, dB", value, "", 25.0, 10.0).shortfall == expected
    for value, expected in ((0.2, 0), (0.3, 0), (0.65, 0.5), (1.0, 1), (2.0, 1)):
        assert Figure("moving pixels lost", value, "", 0.3, 1.0).shortfall == pytest.approx(expected)
    assert Figure("x", None, "", 0.3, 1.0).shortfall == 0
    assert Figure("x", 5.0, "").shortfall == 0
    assert Figure("x", 5.0, "", 0.0, 0.0).shortfall == 0  # one class only: no entropy to compare with


def test_the_worst_part_comes_first_with_its_worst_figure():
    parts = [
        part("Tokenizer", moving_pixels_lost=(0.4, 0.3, 1), codes_never_used=(0.1, 0.5, 1)),
        part("World model", token_accuracy=(0.9, 0.6, 0.1)),
        part("Controller", policy_entropy=(2.85, 2.6, 2.89), correlation_of_value_and_return=(0.2, 0.3, 0)),
    ]
    assert [f.figure.name for f in findings(parts, TRAINED_V)] == ["policy entropy", "moving pixels lost"]
    first, second = why(parts, TRAINED_V)
    assert first.startswith("Worst: the controller, C. policy entropy is 2.85 (healthy: …): the policy hardly prefers")
    assert f"--training.actor-critic.updates more, or a smaller entropy weight (now {10})." in first
    assert second.startswith("Then: the tokenizer, V. moving pixels lost is 0.4")
    assert second.endswith("To try first: --tokenizer.lost-weight larger (now 10.0).")


def test_of_two_as_bad_the_earlier_part_comes_first():
    parts = [part("Tokenizer", moving_pixels_lost=(1, 0.3, 1)), part("World model", token_accuracy=(0, 0.5, 0))]
    assert [f.part for f in findings(parts, TRAINED_V)] == ["Tokenizer", "World model"]


def test_an_agent_without_a_fault_is_told_its_budget():
    (only,) = why([part("Tokenizer", moving_pixels_lost=(0.1, 0.3, 1))], TRAINED_V)
    assert only.startswith("No figure is outside what is healthy: ")
    assert "--epochs more (now 60)" in only


def test_what_is_unhealthy_is_named_whatever_is_known_of_it():
    patch = vary(REM, "tokenizer", network="patch")
    (flicker,) = why([part("Tokenizer", still_tokens_that_flicker=(0.3, 0.05, 0.5))], patch)
    assert flicker.startswith("still tokens that flicker is 0.3 (healthy: …), for which no flag is known to help: ")
    beyond = Figure("arm: features beyond ±402", 0.1, "0", 0.0, 0.1)
    accuracy = Figure("token accuracy", 0.3, "…", 0.5, 0.0)
    said = why([PartFigures("Tokenizer", (beyond,)), PartFigures("World model", (accuracy,))], REM)
    assert said[0] == "Worst: the tokenizer, V. arm: features beyond ±402 is 0.1 (healthy: 0)."
    assert said[1].startswith("Then: the world model, M. token accuracy is 0.3")


def test_a_figure_of_one_part_of_an_observation_has_its_cause():
    lost = Figure("screen: moving pixels lost", 1.0, "…", 0.3, 1.0)
    few = Figure("screen: codebook perplexity", 1.0, "…", 10.0, 1.0)
    (only,) = why([PartFigures("Tokenizer", (lost,))], TRAINED_V)
    assert "what moves is not in the tokens" in only
    assert "--tokenizer.lost-weight larger" in only
    assert findings([PartFigures("Tokenizer", (few,))], REM) == []
    lossy = dataclasses.replace(lost, value=0.4)
    assert findings([PartFigures("Tokenizer", (lossy, few))], REM)[0].figure == few
    cells = Figure("map: cells that are another", 0.05, "0", 0.0, 0.1)
    assert "--tokenizer.codebook-size larger" in why([PartFigures("Tokenizer", (cells,))], preset("grid"))[0]


def test_a_tokenizer_that_is_not_trained_has_other_flags():
    lost = part("Tokenizer", moving_pixels_lost=(1, 0.3, 1))
    assert findings([lost], TRAINED_V)[0].cause.field == "tokenizer.lost_weight"
    assert "To try first: --tokenizer.downsamples smaller (now 3)" in why([lost], CPU)[0]
    flicker = part("Tokenizer", still_tokens_that_flicker=(0.3, 0.05, 0.5))
    assert "To try first: --tokenizer.network patch" in why([flicker], vary(REM, "tokenizer", network="conv"))[0]
    seen = why([flicker], vary(CPU, "tokenizer", kind="pretrained"))[0]
    assert "To try first: --tokenizer.kind dictionary (now pretrained)" in seen


def test_few_codes_are_a_cause_only_where_they_lose_things_and_can_be_moved():
    few = part("Tokenizer", codebook_perplexity=(1, 10, 1))
    lossy = part("Tokenizer", codebook_perplexity=(1, 10, 1), moving_pixels_lost=(0.4, 0.3, 1))
    assert findings([few], REM) == []
    assert why([few], REM)[0].startswith("No figure is outside what is healthy: ")
    assert findings([lossy], REM)[0].cause.field == "tokenizer.revive_after"
    assert findings([lossy], TRAINED_V)[0].cause.field == "tokenizer.lost_weight"  # it revives codes after 20 already
    assert findings([lossy], preset("rem-fsq"))[0].cause.field == "tokenizer.lost_weight"


def test_a_world_model_that_promises_too_much_is_told_what_it_meets():
    promised = PartFigures("World model", (Figure("reward positive: expected for each that came", 7.0, "…", 1.5, 4.0),))
    drawn = vary(CPU, "world_model", logit_adjustment=False)
    (said,) = why([promised], drawn)
    assert "as M meets rewards more often than they come. To try first: --world-model.logit-adjustment (now Fal" in said
    for config in (vary(drawn, "world_model", logit_adjustment=True), REM):
        assert "To try first: --training.world-model.updates more" in why([promised], config)[0]


def test_a_policy_that_is_stuck_and_one_that_does_not_care():
    assert findings([part("Controller", policy_entropy=(0.01, 0.1, 0))], CPU)[0].cause is STUCK
    assert findings([part("Controller", policy_entropy=(1.09, 1, 1.1))], CPU)[0].cause is TIMID


def test_every_cause_names_a_figure_and_a_flag_that_there_are():
    fields = leaves(dataclasses.asdict(REM))
    for cause in (*CAUSES.values(), STUCK, TIMID):
        value = {"patch": "patch", "larger": "1000"}.get(cause.change, "20")
        parse_train(["rem", f"--{cause.field.replace('_', '-')}", value])
        assert cause.field in fields
    stored = [json.loads(path.read_text()) for path in STORED.glob("*/diagnosis.json")]
    known = {figure["name"] for one in stored for p in one["parts"] for figure in p["figures"]}
    newer = {f"{what}: expected for each that came" for what in ("reward positive", "reward negative", "end yes")}
    assert CAUSES.keys() <= known | newer | {"reward negative: recall", "cells that are another"}


def test_the_command_says_it_and_the_report_of_the_run_shows_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(diagnose, "STEPS", 120)
    run = make_run(tmp_path / "run")
    assert "Appears with tokendream diagnose" in write_report(run).read_text()
    assert main(["diagnose", str(run), "--steps", "120", "--device", "cpu"]) == 0
    said = json.loads((run / "diagnosis.json").read_text())["why"]
    assert said[0].startswith("Worst: ")
    out = capsys.readouterr().out
    assert all(line in out for line in said)
    assert RunFolder.read(run).why == said
    (run / "metrics.jsonl").write_text(json.dumps({"epoch": 4, "env_steps": 100, "seconds": 1.0}) + "\n")
    assert RunFolder.read(run).why == ["Of the agent after epoch 3:", *said]
    for page in (run / "diagnosis.html", run / "report.html"):
        text = page.read_text()
        assert "Why is it not better?" in text
        assert text.count("To try first: ") == len(said)


def test_actions_of_one_name_have_a_bar_each():
    axes = Drawing().subplots()
    diagnosis_page._bars(axes, Bars("actions", ("up", "up", "down"), (0.2, 0.3, 0.5), "…"))
    assert len({bar.get_x() for bar in axes.patches}) == 3
    assert [label.get_text() for label in axes.get_xticklabels()] == ["up", "up", "down"]


@pytest.mark.parametrize("text", ['{"why": 3}', "{}", '{"parts": []}'])
def test_an_older_diagnosis_says_nothing(tmp_path, text):
    run = make_run(tmp_path / "run")
    (run / "diagnosis.json").write_text(text)
    assert RunFolder.read(run).why == []


def test_a_broken_one_is_named_and_a_forged_one_is_text(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "diagnosis.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"diagnosis\.json is no JSON"):
        RunFolder.read(run)
    (run / "diagnosis.json").write_text(json.dumps({"why": ["<script>", "x" * 10_000, {}, *range(99)]}))
    why_not = RunFolder.read(run).why
    assert len(why_not) == 8
    assert max(map(len, why_not)) == 600
    assert "<script>" not in write_report(run).read_text()
