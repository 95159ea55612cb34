"""The report over many runs: its figures, what it refuses, and what it says about what is not there."""

import dataclasses
import itertools
import json
import re
import shutil
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from rem_published import REM_PUBLISHED
from test_published import SUCCESSORS

from tokendream.cli.main import main
from tokendream.config.config import Config, vary
from tokendream.config.env import AtariConfig
from tokendream.config.parts import DreamConfig
from tokendream.config.presets import REM, TINY, preset
from tokendream.envs.atari100k import ATARI_100K
from tokendream.errors import ConfigError
from tokendream.evaluation import published, scores
from tokendream.evaluation.evaluation import summarise as evaluation
from tokendream.evaluation.games import Game
from tokendream.sweep.plan import Trial, prepare
from tokendream.sweep.report import charts
from tokendream.sweep.report.export import latex, to_json, write_benchmark
from tokendream.sweep.report.page import game_cell, page
from tokendream.sweep.report.results import ResultError, label, read_results
from tokendream.sweep.report.summary import curve, summarise, text

ROOT = Path(__file__).parents[1]
SMALL = dataclasses.replace(REM, epochs=40, evaluation=dataclasses.replace(REM.evaluation, episodes=4))
NAME = "rem, epochs 40"


def run(home, game, seed, score, config=SMALL, steps=None, flat=False, **protocol):
    """A run folder with that final score, or one that is at epoch 20 where the score is None."""
    config = vary(dataclasses.replace(config, seed=seed), "env", id=game)
    path = home / f"{game.replace('/', '-')}-{label(config).replace(' ', '-')}-{seed}"
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(config.to_json())
    steps = steps or config.collect.steps * config.epochs
    rows = [{"epoch": 20, "env_steps": steps // 2, "seconds": 60.0, "evaluation/mean": (score or 0.0) / 2}]
    if score is not None:
        rows.append({"epoch": config.epochs, "env_steps": steps, "seconds": 120.0})
        for name, value in (("final", score), ("random", 0.0)):
            games = [Game(i, float(value), np.zeros(3, np.uint8)) for i in range(4)]
            temperature = 0.5 if name == "final" else None
            made = evaluation(config, games, seed=seed, temperature=temperature, env_steps=steps, **protocol)
            made.write(path / ("" if flat else "evaluation") / f"{name}.json")
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def like_rem(home, games=tuple(ATARI_100K), seeds=range(5), config=SMALL):
    """Runs whose scores are those that REM published."""
    rem = published.agents()["REM"]
    return [run(home, game, seed, rem.runs[game][seed], config) for game in games for seed in seeds]


@pytest.fixture(scope="module")
def all_games(tmp_path_factory):
    home = tmp_path_factory.mktemp("all")
    like_rem(home)
    return home


def test_the_published_scores_print_the_published_figures(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "--published"]) == 0
    out = capsys.readouterr().out
    rows = dict(line.split(", published") for line in out.splitlines() if ", published" in line)
    for name, figures in {"REM": (1.222, 0.280, 0.673, 0.482), **SUCCESSORS}.items():
        assert rows[name].split()[:4] == [f"{figure:.3f}" for figure in figures], name
    assert rows["REM"].split()[4:] == ["12", "of", "26"]
    assert {p.name for p in (tmp_path / "benchmark-report").iterdir()} == {"report.html", "report.tex", "report.json"}


def test_successors_stand_in_profiles_and_improvements(all_games):
    """Every published agent has a line of the profiles, and each is compared with ours."""
    summary = summarise(read_results([all_games]))
    agents = {f"{name}, published" for name in published.agents()}
    (ours,) = summary.ours
    assert {i.y for i in summary.improvements} == agents
    figure = Figure()
    charts.profiles(figure.add_subplot(), summary)
    labels = {text.get_text() for text in figure.axes[0].get_legend().get_texts()}
    assert labels == {charts.short(name) for name in agents | {ours.name}}


def test_the_figures_of_runs_are_those_of_their_scores(all_games):
    summary = summarise(read_results([all_games]))
    (ours,) = summary.ours
    assert len(summary.games) == 26
    for name in scores.AGGREGATES:
        assert getattr(ours.figures, name) == pytest.approx(getattr(REM_PUBLISHED, name), abs=5e-4)
    rem = next(row for row in summary.agents if row.name == "REM, published")
    assert ours.intervals == rem.intervals
    (same,) = [i for i in summary.improvements if i.y == "REM, published"]
    assert same.probability == 0.5
    points = summary.curves[ours.name]
    assert [p.env_steps for p in points] == [4000, 8000]
    assert points[1].value == pytest.approx(ours.figures.iqm)
    assert points[0].value < points[1].value
    assert not summary.results.missing()


def test_page_latex_and_json_hold_the_figures(all_games, tmp_path):
    summary = write_benchmark([all_games], tmp_path / "out")
    html = (tmp_path / "out" / "report.html").read_text()
    for part in ("<b>0.673</b>", "<b>1.222</b>", "Performance profile", "Probability of improvement",
                 "Sample efficiency", "Learning curves", "Game by game", "KungFuMaster", "leor-c/REM"):  # fmt: skip
        assert part in html
    assert html.count("<svg") == 8 + 26
    assert html.count("REM, published 25,172") == 1  # a line of KungFuMaster's
    assert html.count("random player 0") == 26
    assert "<script" not in html
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:|#)[a-z]""", html)
    tex = (tmp_path / "out" / "report.tex").read_text()
    assert r"\begin{tabular}" in tex
    assert tex.count(r"\\") == 1 + 13 + 1 + 26
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert data["aggregates"][summary.ours[0].name]["superhuman"] == 12
    assert len(data["scores"]) == 130
    assert data["protocol"]["env_steps"] == 8000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 16_000}, r"env_steps is 8000 in .*, but 16000 in"),
        ({"sticky_actions": 0.25}, r"evaluated sticky_actions is 0.0 in .*, but 0.25 in"),
        ({"max_frames": 18_000}, r"evaluated max_frames is 108000 in .*, but 18000 in"),
    ],
)
def test_mixed_protocols_are_refused_with_the_difference_named(tmp_path, change, message):
    like_rem(tmp_path, ("Pong",), range(2))
    run(tmp_path, "Qbert", 0, 5.0, **change)
    with pytest.raises(ResultError, match=message):
        read_results([tmp_path])


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("collect", "steps", 100, "env_steps is 8000 in"),
        ("env", "size", 32, r"env.size is 64 in .*, but 32 in"),
        ("env", "atari", AtariConfig(noop_max=1), r"env.atari.noop_max is 30 in .*, but 1 in"),
        ("evaluation", "temperature", 1.0, r"evaluation.temperature is 0.5 in .*, but 1.0 in"),
        ("evaluation", "episodes", 7, "evaluation.episodes is 4 in .*, but 7 in"),
    ],
)
def test_two_agents_need_one_protocol_too(tmp_path, part, field, value, message):
    other = dataclasses.replace(SMALL, **{part: dataclasses.replace(getattr(SMALL, part), **{field: value})})
    run(tmp_path, "Pong", 0, None)
    run(tmp_path, "Qbert", 0, None, other)
    with pytest.raises(ResultError, match=message):
        read_results([tmp_path])


def test_what_no_game_is_scored_by_is_no_protocol(tmp_path):
    """What rem and simulus learn from, and pictures' size and Atari's rules where neither is met."""
    run(tmp_path / "rem", "Pong", 0, 1.0)
    atari = dataclasses.replace(SMALL.env.atari, sign_rewards=True)
    run(tmp_path / "signs", "Pong", 0, 2.0, vary(SMALL, "env", atari=atari))
    vector = vary(TINY, "env", id="CartPole-v1")
    run(tmp_path / "control", "CartPole-v1", 0, 3.0, vector)
    run(tmp_path / "cpu", "CartPole-v1", 0, 4.0, dataclasses.replace(vary(vector, "env", size=48), preset="cpu"))
    results = read_results([tmp_path / name for name in ("rem", "signs", "control", "cpu")])
    assert len(results.runs) == 4
    assert len(results.agents) == 4
    assert any("sign_rewards True" in name for name in results.agents)


def test_how_long_a_game_is_waited_for_is_no_protocol(tmp_path):
    run(tmp_path, "Pong", 0, None)
    run(tmp_path, "Qbert", 0, None, vary(SMALL, "env", step_timeout=0.0))
    assert len(read_results([tmp_path]).runs) == 2


def test_the_command_refuses_in_one_line_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(tmp_path / "in", "Pong", 0, 1.0)
    run(tmp_path / "in", "Qbert", 0, 5.0, sticky_actions=0.25)
    assert main(["report", "in"]) == 2
    err = capsys.readouterr().err
    assert "mixed protocols: evaluated sticky_actions is" in err
    assert err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_a_missing_seed_takes_its_game_out_of_every_mean_and_is_said(tmp_path):
    like_rem(tmp_path, ("Pong", "Boxing"), range(3))
    run(tmp_path, "Breakout", 0, 50.0)
    run(tmp_path, "Breakout", 2, None)
    results = read_results([tmp_path])
    agent = results.agents[0]
    assert results.missing() == [(agent, "Breakout", 2, "epoch 20 of 40"), (agent, "Breakout", 1, "no run")]
    summary = summarise(results)
    assert summary.games == ("Boxing", "Pong")
    assert summary.ours[0].runs.shape == (3, 2)
    cell = game_cell(summary, agent, "Breakout")
    assert cell.startswith("50<small")
    assert "seed 1, 2 missing" in cell
    assert "missing" in game_cell(summary, agent, "Alien")
    html = page(summary)
    assert "2 of 9 runs are missing." in html
    assert "did not play 23 of the 26 games:</b> Alien, Amidar" in html
    assert "over 2 of the 26 games" in html
    assert "Breakout, seed 1" in html
    assert "% missing: Breakout, seed 1" in latex(summary)
    assert re.search(r"^Breakout .* & -- \\\\$", latex(summary), re.M)
    data = json.loads(to_json(summary))
    assert {"agent": agent, "game": "Breakout", "seed": 1, "score": None} in data["scores"]
    assert "Breakout, seed 1, " in text(summary)
    assert "did not play 23 of the 26 games" in text(summary)


def test_agents_are_compared_on_the_games_that_all_have(tmp_path):
    like_rem(tmp_path, ("Pong", "Boxing", "Krull"), range(2))
    other = dataclasses.replace(SMALL, dream=dataclasses.replace(SMALL.dream, lam=0.5))
    like_rem(tmp_path, ("Pong", "Krull"), range(3), other)
    results = read_results([tmp_path])
    assert set(results.agents) == {NAME, "rem, epochs 40, lam 0.5"}
    summary = summarise(results)
    assert summary.games == ("Krull", "Pong")
    assert {len(row.runs) for row in summary.ours} == {2, 3}


def test_one_seed_has_no_interval(tmp_path):
    like_rem(tmp_path, ("Pong",), range(1))
    summary = summarise(read_results([tmp_path]))
    assert summary.ours[0].intervals is None
    assert "IQM, one seed" in page(summary)
    assert json.loads(to_json(summary))["aggregates"][NAME]["intervals_95"] is None


def test_an_environment_of_ones_own_is_reported_beside(tmp_path):
    """It has no human-normalised score, and no protocol in common with the 26 games."""
    like_rem(tmp_path, ("Pong",), range(2))
    for seed, score in enumerate((4.0, 5.0)):
        run(tmp_path, "tokendream/Catch-v0", seed, score, TINY)
    summary = summarise(read_results([tmp_path]))
    assert summary.games == ("Pong",)
    html = page(summary)
    assert "<h2>tokendream/Catch-v0</h2>" in html
    assert ">4, 5<" in html
    points = curve([r for r in summary.results.runs if "/" in r.game], normalised=False)
    assert [p.value for p in points] == [2.25, 4.5]


def test_a_sweep_says_what_it_was_meant_to_have(tmp_path):
    configs = [
        dataclasses.replace(vary(SMALL, "env", id=game), seed=seed) for game in ("Pong", "Boxing") for seed in (0, 1)
    ]
    trials = [Trial(c, tmp_path / "runs" / f"{c.env_name}-seed{c.seed}") for c in configs]
    prepare(trials, tmp_path)
    made = run(tmp_path / "elsewhere", "Pong", 0, 3.0)
    (made / "evaluation").rename(trials[0].run_dir / "evaluation")
    results = read_results([tmp_path])
    assert [(game, seed, state) for _, game, seed, state in results.missing()] == [
        ("Pong", 1, "not started"),
        ("Boxing", 0, "not started"),
        ("Boxing", 1, "not started"),
    ]
    assert summarise(results).games == ()
    assert "appear with the first game" in page(summarise(results))


def test_no_agent_lacks_what_was_planned_for_another(tmp_path):
    other = vary(SMALL, "dream", lam=0.5)
    configs = [vary(SMALL, "env", id="Pong"), vary(other, "env", id="Boxing"), vary(other, "env", id="Krull")]
    trials = [Trial(config, tmp_path / "runs" / config.env_name) for config in configs]
    prepare(trials, tmp_path)
    kept = [(NAME, "Pong", 0, "not started"), (f"{NAME}, lam 0.5", "Boxing", 0, "not started"),
            (f"{NAME}, lam 0.5", "Krull", 0, "not started")]  # fmt: skip
    assert sorted(read_results([tmp_path]).missing()) == kept
    shutil.rmtree(trials[0].run_dir)  # then nothing says whose Pong was
    assert (kept[1][0], "Pong", 0, "no run") in read_results([tmp_path]).missing()


@pytest.mark.slow
def test_a_thousand_runs_are_reported_in_seconds(tmp_path):
    for made in like_rem(tmp_path / "one", seeds=range(1)):
        config = json.loads((made / "config.json").read_text())
        for i, seed in itertools.product(range(8), range(5)):
            path = shutil.copytree(made, tmp_path / "all" / f"{made.name}-{i}-{seed}")
            config |= {"seed": seed, "dream": config["dream"] | {"lam": 0.9 - i / 100}}
            (path / "config.json").write_text(json.dumps(config))
    began = time.process_time()
    summary = write_benchmark([tmp_path / "all"], tmp_path / "out")
    assert time.process_time() - began < 60
    assert (len(summary.results.runs), len(summary.ours), len(summary.games)) == (1040, 8, 26)
    assert (tmp_path / "out" / "report.html").stat().st_size < 5e6


def test_the_same_run_twice_is_refused(tmp_path):
    one = run(tmp_path / "a", "Pong", 0, 3.0)
    run(tmp_path / "b", "Pong", 0, 4.0)
    with pytest.raises(ResultError, match=f"Pong, agent {NAME}, seed 0 is there twice"):
        read_results([one, tmp_path / "b"])


def test_an_evaluation_of_another_game_is_refused(tmp_path):
    path = run(tmp_path, "Pong", 0, 3.0)
    (path / "config.json").write_text(vary(SMALL, "env", id="Boxing").to_json())
    with pytest.raises(ResultError, match="an evaluation of Pong, but the run played Boxing"):
        read_results([path])


def test_the_page_about_the_benchmark_says_what_the_command_prints():
    table = (ROOT / "docs" / "benchmark.md").read_text().split("<!-- published -->")[1].split("<!-- /published -->")[0]
    for row in summarise(read_results([])).agents:
        figures = [
            f"{getattr(row.figures, name):.3f} ({row.intervals[name][0]:.3f} to {row.intervals[name][1]:.3f})"
            for name in ("mean", "median", "iqm", "optimality_gap")
        ]
        name = row.name.removesuffix(", published")
        assert f"| {name} | {' | '.join(figures)} | {row.figures.superhuman:.0f} |" in table


@pytest.mark.parametrize(("name", "message"), [("empty", "holds no run"), ("nowhere", "is no folder")])
def test_a_folder_that_is_no_result(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=message):
        read_results([tmp_path / name])


def test_report_takes_folders_or_published(capsys):
    for argv in ([], ["--published", "somewhere"]):
        assert main(["report", *argv]) == 2
        assert "either folders (a run, runs, a sweep) or --published" in capsys.readouterr().err


def test_rems_ablations_stand_beside_ours(tmp_path):
    config = dataclasses.replace(SMALL, preset="rem-no-pop")
    like_rem(tmp_path, ("Pong", "Boxing"), config=config)
    html = page(summarise(read_results([tmp_path])))
    rows = html.split("One thing changed</h2>")[1].split("</table>")[0].split("<tr>")
    (ours,) = [row for row in rows if "rem-no-pop" in row]
    assert [row for row in rows if "REM, no-pop" in row]
    rem = published.agents()["REM"].matrix(("Pong", "Boxing"))
    assert f"{rem.mean():.3f}" in ours
    assert len([row for row in rows if "REM on those games" in row]) == 5


def test_a_task_of_the_control_suite_stands_beside_simulus(tmp_path):
    config = vary(SMALL, "env", id="dmc:walker-walk")
    run(tmp_path, "dmc:walker-walk", 0, 300.0, config)
    html = page(summarise(read_results([tmp_path])))
    assert "Simulus, published, from vectors" in html
    assert "969.9" in html


def test_names_of_agents():
    assert label(REM) == "rem"
    assert label(dataclasses.replace(vary(REM, "env", id="Pong"), seed=4, device="cpu")) == "rem"
    changed = dataclasses.replace(REM.training.world_model, updates=0)
    config = dataclasses.replace(REM, training=dataclasses.replace(REM.training, world_model=changed))
    assert label(config) == "rem, training.world_model.updates 0"
    assert label(dataclasses.replace(Config(), preset="of-another-version")) == "of-another-version"
    assert label(preset("cpu-fsq")) == "cpu-fsq"
    many = [
        dataclasses.replace(REM, epochs=n, dream=DreamConfig(n, 5, discount=0.5, lam=0.5, entropy_weight=0.5))
        for n in (11, 12)
    ]
    names = {label(config) for config in many}
    assert len(names) == 2
    assert all(len(name) < 60 for name in names)


def test_markup_and_latex_in_names_stay_text(tmp_path):
    hostile = dataclasses.replace(SMALL, preset="<b>_x&y</b>")
    for seed in (0, 1):
        run(tmp_path, "Pong", seed, 3.0, hostile).rename(tmp_path / f"run{seed}")
    summary = summarise(read_results([tmp_path]))
    assert "<b>_x" not in page(summary)
    assert r"<b>\_x\&y</b>" in latex(summary)


def test_the_committed_results_can_be_reported(tmp_path):
    """Those of as many env steps together: a report refuses to mix protocols."""
    for device in {final.parents[1] for final in (ROOT / "results").glob("*/*/final.json")}:
        folders = sorted(p for p in device.iterdir() if p.is_dir())
        by_env_steps = defaultdict(list)
        for folder in folders:
            [run] = read_results([folder]).runs
            by_env_steps[run.protocol["env_steps"]].append(folder)
        for runs in by_env_steps.values():
            assert len(write_benchmark(runs, tmp_path).results.runs) == len(runs)
