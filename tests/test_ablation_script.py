"""scripts/ablation.py: its agents are what their names say, and its page says what the kept scores say."""

import dataclasses
import importlib
import re
from pathlib import Path

import pytest

from tokendream.config.config import Config, leaves
from tokendream.config.presets import PRESETS
from tokendream.evaluation.evaluation import Evaluation
from tokendream.sweep.plan import fields_that_differ

ROOT = Path(__file__).parents[1]


@pytest.fixture
def ablation(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("ablation")


def changed(a: Config, b: Config) -> set[str]:
    return {name for name, _, _ in fields_that_differ(a, b)}


def test_every_ingredient_is_alone_on_rem_and_alone_cut_out_of_all(ablation):
    for problem in ablation.PROBLEMS.values():
        config, ingredients, rows = problem.config, problem.ingredients, problem.rows
        assert len(ingredients) >= 12
        each = {name: changed(change(config), config) for name, change in ingredients.items()}
        assert all(each.values())
        fields = [field for found in each.values() for field in found]
        assert len(fields) == len(set(fields))  # no two ingredients are one
        everything = rows["all"](config)
        assert changed(everything, config) == set(fields)
        if problem.alone:
            assert list(rows) == ["rem", "all", *(f"+ {name}" for name in problem.alone)]
            continue
        assert len(rows) == 2 * len(ingredients) + 4
        for name, found in each.items():
            assert changed(rows[f"+ {name}"](config), config) == found
            assert changed(rows[f"- {name}"](config), everything) == found


def test_ingredients_are_as_published(ablation):
    """Where a successor's preset has another value than REM, `all` has it; REM has no advantages that are scaled."""
    rem = leaves(dataclasses.asdict(Config()))
    for problem, successor in zip(ablation.PROBLEMS.values(), ("simulus-dmc", "simulus", "simulus"), strict=True):
        published = leaves(dataclasses.asdict(PRESETS[successor]))
        everything = leaves(dataclasses.asdict(problem.rows["all"](problem.config)))
        ingredients = changed(problem.rows["all"](problem.config), problem.config)
        shared = {name for name in ingredients if published[name] != rem[name]}
        assert len(shared) >= 11
        assert {name: everything[name] for name in shared} == {name: published[name] for name in shared}
        quantiles = problem.ingredients["quantiles"](problem.config)
        assert changed(quantiles, problem.config) == {"dream.scale_by_quantiles"}
        assert not quantiles.dream.scale_advantage


def test_three_seeds_are_expected_to_take_thirty_core_hours_at_most(ablation):
    assert 20 < sum(problem.hours(ablation.LEAST) for problem in ablation.PROBLEMS.values()) <= 30


def test_rem_has_nothing_that_the_paper_does_not_have_in_m_and_c(ablation):
    rem = Config()
    for problem in ablation.PROBLEMS.values():
        for part in ("world_model", "actor_critic"):
            differ = changed(dataclasses.replace(rem, **{part: getattr(problem.config, part)}), rem)
            sizes = {"width", "layers", "heads", "dropout", "segment_length", "lstm_width"}
            assert {name.partition(".")[2] for name in differ} <= sizes


def test_every_run_has_a_folder_and_seeds_come_one_after_the_other(ablation, tmp_path):
    trials = ablation.trials(tmp_path)
    assert (
        len({trial.name for trial in trials})
        == len(trials)
        == sum(len(problem.rows) * problem.seeds for problem in ablation.PROBLEMS.values())
    )
    seeds = [trial.config.seed for trial in trials]
    assert seeds == sorted(seeds)
    assert ablation.trials(tmp_path, (), 3) == [trial for trial in trials if trial.config.seed < 3]
    of_images = [trial.config.seed for trial in trials if "Catch" in trial.name]
    assert sorted(of_images) == sorted([0, 1, 2] * 5)
    assert {trial.config.seed for trial in ablation.trials(tmp_path, ["- events"])} == {0, 1, 2, 3, 4}
    with pytest.raises(ValueError, match=r"nearest: .*\+ events"):
        ablation.trials(tmp_path, ["+ evens"])
    assert {trial.config.env.id for trial in ablation.trials(tmp_path, (), 1, ["CartPole-v1"])} == {"CartPole-v1"}
    with pytest.raises(ValueError, match="nearest: CartPole-v1"):
        ablation.trials(tmp_path, (), 1, ["CartPole"])


def test_an_effect_is_the_difference_of_means_and_its_interval_covers_seeds(ablation):
    assert ablation.effect([5.0] * 5, [2.0] * 5) == (3, 3, 3)
    mean, low, high = ablation.effect([1, 2, 3, 4, 5], [2, 2, 2, 2, 2])
    assert mean == 1
    assert -0.4 < low < 0 < 2 < high < 2.4  # by hand: 1 ± 1.96 x 1.41 / √5, less at the tails
    assert ablation.verdict((1, low, high)) == "no effect seen"
    assert ablation.verdict((1, 0.1, 2)) == "better with it"
    assert ablation.verdict((-1, -2, -0.1)) == "worse with it"


def test_the_pages_say_what_the_kept_scores_say(ablation):
    text = ablation.BEYOND.read_text()
    assert ablation.PAGE.read_text() == ablation.page(ablation.KEPT), "python scripts/ablation.py write"
    assert text == ablation.beyond(text, ablation.KEPT), "python scripts/ablation.py write"


def test_a_row_with_all_its_seeds_has_an_effect(ablation, tmp_path, monkeypatch):
    def write(row: str, score: float, seconds: float, seeds: int = 5) -> None:
        for seed in range(seeds):
            name = ablation.run_name("minatar:Breakout", row, seed)
            protocol = {"seconds_an_epoch": seconds}
            Evaluation("minatar:Breakout", protocol, (float(score),), (1,), (0,)).write(tmp_path / f"{name}.json")

    page, text = ablation.page(tmp_path), ablation.BEYOND.read_text()
    assert "Not run yet" in page
    assert page.count("| ten layers | needs a GPU |") == 3
    assert page.count("| FSQ | does not exist here |") == 2
    write("rem", 4, 2)
    write("+ events", 7, 2.5)
    write("+ norms", 7, 2.5, 2)
    page = ablation.page(tmp_path)
    assert "| events | +3.0 (+3.0 to +3.0) | better with it | not run yet |  | 2.5 |" in page
    assert "| norms | not run yet |" in page
    assert f"**12 of {ablation.number()} runs are finished.**" in page
    told = ablation.beyond(text, tmp_path)
    assert "| minatar:Breakout +3.0 (+3.0 to +3.0) | a head on pairs of predictions, in training; epoch x 1.2" in told
    assert told == ablation.beyond(told, tmp_path)
    assert "| `tokenizers/quantizer.py` | needs a GPU | none |" in told  # FSQ
    assert "| not run yet | heads twice as wide; epoch x 1.25 |" in told
    monkeypatch.setattr(ablation, "PAGE", tmp_path / "ablations.md")
    ablation.draw(tmp_path)
    assert (tmp_path / ablation.PLOT).stat().st_size > 1000


def test_every_ingredient_of_the_ablations_stands_on_the_page_of_ingredients(ablation):
    named = set(re.findall(r"^\| ([\w ]+): `", ablation.BEYOND.read_text(), re.MULTILINE))
    rows = {name for problem in ablation.PROBLEMS for name in ablation.effects(ablation.KEPT, problem)}
    assert rows - {"local prediction"} <= named
