"""The runs of a sweep: which games and seeds, in which folders, and the list of them."""

import dataclasses
import json
import shutil

import pytest
from test_sweep import trials

from tokendream.cli.flags import parse_sweep
from tokendream.config.presets import TINY
from tokendream.errors import ConfigError
from tokendream.sweep.plan import Trial, expected, fields_that_differ, plan, prepare


def test_all_is_the_26_games(tmp_path):
    made = plan("atari100k", ["all"], 2, TINY, tmp_path)
    assert len(made) == 52
    assert len({trial.run_dir for trial in made}) == 52
    assert (made[0].game, made[0].config.seed, made[1].config.seed) == ("Alien", 0, 1)
    assert [c.game for c in plan("atari100k", ["ms_pacman,Pong", "Pong"], 1, TINY, tmp_path)] == ["MsPacman", "Pong"]
    alike = ["Pong", "pong", "atari:Pong", "tokendream/Catch-v0", "gym:tokendream/Catch-v0"]
    assert [c.name for c in plan("atari100k", alike, 1, TINY, tmp_path)] == ["Pong-seed0", "tokendream-Catch-v0-seed0"]


def test_any_environment_can_be_swept(tmp_path):
    made = plan("atari100k", ["atari:tetris", "gym:tokendream/Catch-v0", "atari:ms_pacman"], 1, TINY, tmp_path)
    assert [c.game for c in made] == ["tetris", "tokendream/Catch-v0", "MsPacman"]
    assert [c.name for c in made] == ["tetris-seed0", "tokendream-Catch-v0-seed0", "MsPacman-seed0"]


@pytest.mark.parametrize(("kinds", "named"), [("Vector,Bits", "control"), ("Map", "grid"), ("Robot", "cpu")])
def test_the_preset_follows_what_the_games_show_unless_it_is_named(kinds, named, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    argv = ["--games", ",".join(f"any_spaces:Any{kind}-v0" for kind in kinds.split(",")), "--seeds", "1"]
    assert parse_sweep(argv).config.preset == named
    assert capsys.readouterr().out.startswith(f"preset {named}: ")
    assert parse_sweep([*argv, "--preset", "tiny"]).config.preset == "tiny"


def test_games_that_ask_for_several_presets_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    games = ["any_spaces:AnyVector-v0", "any_spaces:AnyMap-v0", "Pong"]
    each = "any_spaces:AnyVector-v0 control, any_spaces:AnyMap-v0 grid, Pong cpu"
    with pytest.raises(ConfigError, match=f"several presets .{each}.: sweep them apart, or name one by --preset"):
        parse_sweep(["--games", *games])
    assert parse_sweep(["--games", *games, "--preset", "cpu"]).config.preset == "cpu"


def test_a_folder_of_another_config_is_refused(tmp_path):
    made = trials(tmp_path, 2)
    prepare(made, tmp_path)
    other = [Trial(dataclasses.replace(made[0].config, epochs=9), made[0].run_dir)]
    with pytest.raises(ConfigError, match=r"Catch-seed0 was started with epochs 4, not 9; name another folder"):
        prepare(other, tmp_path)
    new = [Trial(dataclasses.replace(other[0].config, seed=7), tmp_path / "runs" / "Catch-seed7")]
    with pytest.raises(ConfigError, match=r"Catch-seed0 was started with epochs 4, not 9"):  # though no run is the same
        prepare(new, tmp_path)
    assert not new[0].run_dir.exists()
    prepare(new, tmp_path, one_agent=False)  # as an ablation has them
    assert new[0].run_dir.exists()
    with pytest.raises(ConfigError, match=r"Catch-seed0 was started with epochs 4, not 9"):
        prepare(other, tmp_path, one_agent=False)
    shutil.rmtree(new[0].run_dir)
    (tmp_path / "sweep.json").unlink()
    (made[1].run_dir / "config.json").rename(made[1].run_dir / "config.json.part")  # as a full disk leaves it
    prepare(made, tmp_path)
    assert (made[1].run_dir / "config.json").exists()
    deep = dataclasses.replace(TINY, dream=dataclasses.replace(TINY.dream, lam=0.5))
    assert list(fields_that_differ(TINY, deep)) == [("dream.lam", 0.95, 0.5)]


@pytest.mark.parametrize(
    "runs", [3, [{}], *([{"folder": name, "game": "Pong", "seed": 0}] for name in ("../../etc", "..", ".", "", 3))]
)
def test_a_damaged_list_of_runs_is_refused(tmp_path, runs):
    (tmp_path / "sweep.json").write_text(json.dumps({"format": 1, "runs": runs}))
    with pytest.raises(ConfigError, match="runs must be a list of folder, game and seed"):
        expected(tmp_path)
