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


@pytest.fixture
def pages(ablation):
    return importlib.import_module("ablation_page")


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
            assert list(rows) == ["rem", "all", *(f"+ {name}" for name in (*problem.alone, "FSQ"))]
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


def test_best_is_rem_with_what_helped(ablation, pages):
    ingredients = ablation.PROBLEMS["tokendream/Catch-v0"].ingredients
    fields = {f for name in pages.helpful(pages.KEPT) for f in changed(ingredients[name](Config()), Config())}
    assert fields
    assert changed(PRESETS["best"], Config()) == fields | {"preset"}
    assert set(pages.in_best()) == set(pages.helpful(pages.KEPT))


def test_all_seeds_are_expected_to_take_thirty_core_hours_at_most(ablation):
    assert 20 < sum(problem.hours(problem.seeds) for problem in ablation.PROBLEMS.values()) <= 30


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
    assert sorted(of_images) == sorted([0, 1, 2] * 6)
    assert {trial.config.seed for trial in ablation.trials(tmp_path, ["- events"])} == {0, 1, 2, 3, 4}
    with pytest.raises(ValueError, match=r"nearest: .*\+ events"):
        ablation.trials(tmp_path, ["+ evens"])
    assert {trial.config.env.id for trial in ablation.trials(tmp_path, (), 1, ["CartPole-v1"])} == {"CartPole-v1"}
    with pytest.raises(ValueError, match="nearest: CartPole-v1"):
        ablation.trials(tmp_path, (), 1, ["CartPole"])


def test_an_effect_is_the_difference_of_means_and_its_interval_covers_seeds(pages):
    assert pages.effect([5.0] * 5, [2.0] * 5) == (3, 3, 3)
    mean, low, high = pages.effect([1, 2, 3, 4, 5], [2, 2, 2, 2, 2])
    assert mean == 1
    assert (low, high) == pytest.approx((1 - 1.9632, 1 + 1.9632), abs=1e-3)  # 2.776, t of 4, x 1.5811 / √5
    assert pages.verdict((1, low, high)) == "no effect seen"
    assert pages.verdict((1, 0.1, 2)) == "better with it"
    assert pages.verdict((-1, -2, -0.1)) == "worse with it"


def test_the_return_while_learning_is_a_mean_over_epochs(ablation):
    records = [{}, {"collect/return": 2.0}, {}, {"collect/return": 5.0}]
    assert ablation.training_return(records) == 3


def test_the_pages_say_what_the_kept_scores_say(pages):
    text = pages.BEYOND.read_text()
    assert pages.PAGE.read_text() == pages.page(pages.KEPT), "python scripts/ablation.py write"
    assert text == pages.beyond(text, pages.KEPT), "python scripts/ablation.py write"


def test_a_row_with_all_its_seeds_has_an_effect(pages, tmp_path, monkeypatch):
    problem = "minigrid:MiniGrid-Empty-5x5-v0"

    def write(row: str, score: float, seconds: float, seeds: int = 5) -> None:
        for seed in range(seeds):
            name = pages.run_name(problem, row, seed)
            protocol = {"seconds_an_epoch": seconds, "training_return": score / 4, "core_hours": 0.25}
            Evaluation(problem, protocol, (float(score),), (1,), (0,)).write(tmp_path / f"{name}.json")

    page, text = pages.page(tmp_path), pages.BEYOND.read_text()
    assert "Not run yet" in page
    assert "Does not exist here: V that is trained, FSQ, LPIPS." in page
    write("rem", 4, 2)
    write("+ events", 7, 2.5)
    write("+ norms", 7, 2.5, 2)
    write("+ quantiles", 4, 2)
    page = pages.page(tmp_path)
    assert "| events | +3 (+3 to +3) | better with it | fewer than 3 seeds |  | 1.25 |" in page
    assert "| events | +0.75 (+0.75 to +0.75) | better with it | fewer than 3 seeds |  | 1.25 |" in page
    assert "| norms | fewer than 3 seeds |" in page
    assert page.count("| quantiles | +0 (+0 to +0) | the same scores | fewer than 3 seeds |  | 1.00 |") == 2
    assert page.count("| ten layers | needs a GPU | | | | |") == 2
    assert page.count(" Better with it, alone, on REM: events.") == 2
    assert "Worse with it" not in page
    assert "better on minigrid:MiniGrid-Empty-5x5-v0" not in page  # events are not in `best`
    assert "By these runs it would be: events." in " ".join(page.split())
    assert "Of the 0 intervals below, 0 exclude zero" in page
    assert f"**17 of {pages.number()} runs are finished.** The 17 of them that say so took 4.2 core-hours of" in page
    told = pages.beyond(text, tmp_path)
    while_learning = ", while learning **+0.75 (+0.75 to +0.75)**"
    assert f"| {problem} +3 (+3 to +3){while_learning} | a head on pairs of predictions, in" in told
    assert told == pages.beyond(told, tmp_path)
    assert "| `tokenizers/quantizer.py` | fewer than 3 seeds | none |" in told  # FSQ
    assert "| fewer than 3 seeds | heads twice as wide; epoch x 1.25 |" in told
    monkeypatch.setattr(pages, "PAGE", tmp_path / "ablations.md")
    pages.draw(tmp_path)
    assert (tmp_path / pages.PLOT).stat().st_size > 1000


def test_every_ingredient_of_the_ablations_stands_on_the_page_of_ingredients(pages):
    named = set(re.findall(r"^\| ([\w ]+): `", pages.BEYOND.read_text(), re.MULTILINE))
    rows = {name for problem in pages.PROBLEMS for name in pages.effects(pages.KEPT, problem)}
    assert rows - {"local prediction"} <= named
