"""The report at every moment of a run's life, from an empty folder to the end."""

import dataclasses
import json
import re
import time

import numpy as np
import pytest
from matplotlib.figure import Figure

from tokendream.config.config import Config, vary
from tokendream.errors import ConfigError, TokendreamError
from tokendream.evaluation.evaluation import summarise
from tokendream.evaluation.games import Game
from tokendream.reports import charts, media
from tokendream.reports.results import RunFolder
from tokendream.reports.run_page import write_codes, write_pictures, write_report
from tokendream.runfolder.metrics import read_metrics
from tokendream.sweep.progress import progress

BREAKOUT = Config(epochs=40)


def evaluation(scores, epoch, **extra):
    games = [Game(seed=i, score=float(s), actions=np.zeros(5, np.uint8)) for i, s in enumerate(scores)]
    return summarise(BREAKOUT, games, seed=0, temperature=0.5, epoch=epoch, env_steps=200 * epoch, **extra)


def folder(path, epochs=30, finished=True):
    """A synthetic run of Breakout."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(BREAKOUT.to_json())
    rng = np.random.default_rng(0)
    lines = []
    for epoch in range(1, epochs + 1):
        record = {"epoch": epoch, "env_steps": 200 * epoch, "seconds": 9.5 * epoch, "collect/seconds": 1.0}
        if epoch % 2:
            record["collect/return"] = float(rng.poisson(epoch))
        if epoch > 5:
            record |= {"tokenizer/reconstruction": 1 / epoch, "tokenizer/seconds": 3.0, "tokenizer/updates_per_s": 66.0}
        if epoch > 10:
            record |= {"world_model/next_frame": 5 / epoch, "world_model/accuracy": 0.9, "actor_critic/policy": None}
        lines.append(json.dumps(record) + "\n")
    (path / "metrics.jsonl").write_text("".join(lines))
    evaluation([1, 2, 5], 20).write(path / "evaluation" / "epoch-000020.json")
    if finished:
        evaluation([7, 30, 41, 12], 40).write(path / "evaluation" / "final.json")
        evaluation([1, 0, 2, 1], 40, player="random").write(path / "evaluation" / "random.json")
    return path


def film(n=12):
    return np.random.default_rng(1).integers(0, 256, (n, 3, 16, 16), dtype=np.uint8)


def test_a_finished_run_shows_everything(tmp_path):
    run = folder(tmp_path / "run")
    write_pictures(run, film(), film(), film())
    write_codes(run, film(100)[..., :8, :8])
    began = time.perf_counter()
    page = write_report(run).read_text()
    assert time.perf_counter() - began < 10
    assert "Breakout, preset rem, seed 0" in page
    assert "<b>22.5</b>" in page  # the final mean
    assert "<b>0.722</b>" in page  # (22.5 - 1.7) / (30.5 - 1.7)
    assert "REM, published 90.7" in page or "<b>90.7</b>" in page
    assert page.count("data:image/png;base64,") == 4
    assert page.count("data:video/mp4;base64,") == 1
    for section in ("Learning curve", "What the agent sees", "Evaluation", "The three parts", "Where the time goes"):
        assert section in page
    assert "M next-frame token accuracy" in page
    assert "tokendream train --resume" in page
    assert "dream.horizon" in page


def test_the_chart_has_the_random_player_that_was_measured_and_names_what_is_further_up(tmp_path):
    run = folder(tmp_path / "run", finished=False)
    for known in ("random 1.7", "human 30.5", "REM, published 90.7"):
        assert known in write_report(run).read_text().split("</svg>")[0]
    evaluation([1, 0, 2, 1], 40, player="random").write(run / "evaluation" / "random.json")
    chart = write_report(run).read_text().split("</svg>")[0]
    assert "random 1<" in chart
    assert "random 1.7" not in chart
    assert "further up: REM, published 90.7<" in chart


def test_the_chart_has_round_figures_and_its_legend_above_every_level(tmp_path):
    run = folder(tmp_path / "run", finished=False)
    evaluation([-1, -2, -1.03125], 40, player="random").write(run / "evaluation" / "random.json")
    axes = Figure(layout="constrained").add_subplot()
    charts.learning(axes, RunFolder.read(run))
    axes.figure.draw_without_rendering()
    assert "random -1.344" in [text.get_text() for text in axes.texts]
    assert axes.get_legend().get_window_extent().y0 >= axes.bbox.y1


def test_returns_of_signs_alone_are_not_drawn_among_scores(tmp_path):
    run = folder(tmp_path / "run", finished=False)
    assert "training, smoothed" in write_report(run).read_text().split("</svg>")[0]
    atari = dataclasses.replace(BREAKOUT.env.atari, sign_rewards=True)
    (run / "config.json").write_text(vary(BREAKOUT, "env", atari=atari).to_json())
    page = write_report(run).read_text()
    assert "training, smoothed" not in page
    assert "evaluation, 95% interval" in page.split("</svg>")[0]
    (run / "evaluation" / "epoch-000020.json").unlink()
    assert "the first evaluation" in write_report(run).read_text()


def test_a_week_of_epochs_is_read_and_drawn_in_seconds(tmp_path):
    run, figures = folder(tmp_path / "run", epochs=0, finished=False), {name for name, *_ in charts.LOSSES}
    rng = np.random.default_rng(0)
    records = [
        {"epoch": i, "env_steps": 200 * i, "seconds": 30.0 * i, "collect/return": rng.normal(), "collect/seconds": 9.0,
         "world_model/seconds": 20 + rng.normal(), **{name: rng.normal() for name in figures}}
        for i in range(1, 20_001)
    ]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    began = time.process_time()
    assert progress(BREAKOUT, read_metrics(run / "metrics.jsonl")).epoch == 20_000
    assert time.process_time() - began < 5
    page = write_report(run).read_text()
    assert time.process_time() - began < 30
    assert len(page) < 4e6, len(page)
    y = [record["collect/return"] for record in records]
    x, drawn = charts.thinned([float(i) for i in range(20_000)], y)
    assert len(x) == len(drawn) <= charts.MOST_POINTS
    assert (x[0], x[-1], min(drawn), max(drawn)) == (0, 19_999, min(y), max(y))
    assert drawn == [y[int(i)] for i in x]


def test_a_sheet_has_every_picture_in_its_place():
    tiles = film(5)
    sheet = media.sheet(tiles, 3)
    assert sheet.shape == (3, 2 * 17, 3 * 17)
    for i, tile in enumerate(tiles):
        y, x = 17 * (i // 3), 17 * (i % 3)
        assert np.array_equal(sheet[:, y : y + 16, x : x + 16], tile)
    assert (sheet[:, 17:, 34:] == media.GAP).all()


def test_the_page_asks_nobody_for_anything(tmp_path):
    run = folder(tmp_path / "run")
    write_pictures(run, film(), film(), film())
    page = write_report(run).read_text()
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:|#)[a-z]""", page)
    assert "<script" not in page
    assert len(page) < 10e6


@pytest.mark.parametrize("epochs", [0, 1, 2, 8])
def test_a_run_that_has_only_begun(tmp_path, epochs):
    run = folder(tmp_path / "run", epochs=epochs, finished=False)
    for path in (run / "evaluation").iterdir():
        path.unlink()
    page = write_report(run).read_text()
    assert "Appears with" in page
    assert f"epoch {epochs} of 40" in page


def test_a_torn_last_line_is_no_obstacle(tmp_path):
    run = folder(tmp_path / "run", finished=False)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 31, "env')
    assert "epoch 30 of 40" in write_report(run).read_text()


def test_markup_in_a_config_stays_text(tmp_path):
    run = folder(tmp_path / "run", finished=False)
    (run / "config.json").write_text(vary(BREAKOUT, "env", id="<script>alert(1)</script>").to_json())
    assert "<script" not in write_report(run).read_text()


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        write_report(tmp_path)


@pytest.mark.parametrize("name", ["evaluation/final.json", "metrics.jsonl"])
def test_damaged_files_are_named(tmp_path, name):
    run = folder(tmp_path / "run")
    (run / name).write_text("garbage\n")
    with pytest.raises(TokendreamError, match=name.rsplit("/", 1)[-1]):
        write_report(run)


def test_unreadable_facts_are_left_out(tmp_path):
    run = folder(tmp_path / "run")
    (run / "facts.json").write_text("{")
    assert "Breakout" in write_report(run).read_text()
