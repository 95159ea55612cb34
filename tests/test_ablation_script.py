"""scripts/ablation.py: its agents are what their names say, and its page says what the kept scores say."""

import dataclasses
import importlib
from pathlib import Path

import pytest

from tokendream.config.config import Config
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
    for config, ingredients in ablation.PROBLEMS.values():
        assert len(ingredients) >= 12
        rows = ablation.rows(ingredients)
        assert len(rows) == 2 * len(ingredients) + 4
        each = {name: changed(rows[f"+ {name}"](config), config) for name in ingredients}
        assert all(each.values())
        fields = [field for found in each.values() for field in found]
        assert len(fields) == len(set(fields))  # no two ingredients are one
        everything = rows["all"](config)
        assert changed(everything, config) == set(fields)
        for name, found in each.items():
            assert changed(rows[f"- {name}"](config), everything) == found


def test_rem_has_nothing_that_the_paper_does_not_have_in_m_and_c(ablation):
    rem = Config()
    for config, _ in ablation.PROBLEMS.values():
        for part in ("world_model", "actor_critic"):
            differ = changed(dataclasses.replace(rem, **{part: getattr(config, part)}), rem)
            sizes = {"width", "layers", "heads", "dropout", "segment_length", "lstm_width"}
            assert {name.partition(".")[2] for name in differ} <= sizes


def test_every_run_has_a_folder_and_seeds_come_one_after_the_other(ablation, tmp_path):
    trials = ablation.trials(tmp_path)
    assert (
        len({trial.name for trial in trials})
        == len(trials)
        == 5 * sum(2 * len(ingredients) + 4 for _, ingredients in ablation.PROBLEMS.values())
    )
    seeds = [trial.config.seed for trial in trials]
    assert seeds == sorted(seeds)
    assert {trial.config.seed for trial in ablation.trials(tmp_path, ["- events"])} == {0, 1, 2, 3, 4}
    with pytest.raises(ValueError, match=r"nearest: .*\+ events"):
        ablation.trials(tmp_path, ["+ evens"])


def test_an_effect_is_the_difference_of_means_and_its_interval_covers_seeds(ablation):
    assert ablation.effect([5.0] * 5, [2.0] * 5) == (3, 3, 3)
    mean, low, high = ablation.effect([1, 2, 3, 4, 5], [2, 2, 2, 2, 2])
    assert mean == 1
    assert -0.4 < low < 0 < 2 < high < 2.4  # by hand: 1 ± 1.96 x 1.41 / √5, less at the tails
    assert ablation.verdict((1, low, high)) == "no effect seen"
    assert ablation.verdict((1, 0.1, 2)) == "better with it"
    assert ablation.verdict((-1, -2, -0.1)) == "worse with it"


def test_the_page_says_what_the_kept_scores_say(ablation):
    assert ablation.PAGE.read_text() == ablation.page(ablation.KEPT), "python scripts/ablation.py write"


def test_a_row_with_all_its_seeds_has_an_effect(ablation, tmp_path, monkeypatch):
    def write(row: str, score: float, seeds: tuple[int, ...] = ablation.SEEDS) -> None:
        for seed in seeds:
            name = ablation.run_name("minatar:Breakout", row, seed)
            protocol = {"seconds_an_epoch": 2.5}
            Evaluation("minatar:Breakout", protocol, (float(score),), (1,), (0,)).write(tmp_path / f"{name}.json")

    assert "Not run yet" in ablation.page(tmp_path)
    write("rem", 4)
    write("+ events", 7)
    write("+ norms", 7, (0, 1))
    page = ablation.page(tmp_path)
    assert "| events | +3.0 (+3.0 to +3.0) | better with it | not run yet |  | 2.5 |" in page
    assert "| norms | not run yet |" in page
    assert f"**12 of {len(ablation.trials(tmp_path))} runs are finished.**" in page
    monkeypatch.setattr(ablation, "PAGE", tmp_path / "ablations.md")
    ablation.draw(tmp_path)
    assert (tmp_path / ablation.PLOT).stat().st_size > 1000
