"""`tokendream dream`: films and pictures of a tiny run, and what it refuses."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from playing import PLAIN, make_run

from tokendream.agent.agent import Agent
from tokendream.cli.main import main
from tokendream.config.presets import TINY
from tokendream.data.replay import ReplayBuffer
from tokendream.dream import imagine
from tokendream.reports import films
from tokendream.runfolder.load import Trained

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_a_picture_has_three_rows(finished, tmp_path):
    out = tmp_path / "new" / "dream.png"
    assert main(["dream", str(finished), "--out", str(out), "--at", "50", "--length", "8"]) == 0
    with Image.open(out) as picture:
        width, height = picture.size
    assert height == 2 * 3 * 64
    assert width == 2 * (8 * 64 + 7 * 2)


def test_the_dream_starts_from_the_frame_it_is_compared_with(finished, tmp_path):
    out = tmp_path / "dream.png"
    assert main(["dream", str(finished), "--out", str(out), "--at", "50", "--length", "8"]) == 0
    with Image.open(out) as file:
        picture = np.asarray(file)
    reconstruction, dream = picture[128:256], picture[256:384]
    assert (reconstruction[:, :128] == dream[:, :128]).all()
    assert (picture[:128] != reconstruction).any()


def test_films_of_a_dream_and_of_many_futures(finished, tmp_path, capsys):
    for name, flags in (("one.mp4", []), ("many.mp4", ["--futures", "5"])):
        out = tmp_path / name
        assert main(["dream", str(finished), "--out", str(out), "--at", "50", "--length", "6", *flags]) == 0
        assert out.stat().st_size > 500
        assert str(out) in capsys.readouterr().out


def test_where_nothing_can_be_written_nothing_is_computed(finished, monkeypatch, capsys):
    monkeypatch.setattr(Trained, "play", lambda *_, **__: pytest.fail("played"))
    for out in ("/proc/dream.mp4", "/proc/new/dream.gif"):  # where root, too, may not
        assert main(["dream", str(finished), "--out", out]) == 2
        assert capsys.readouterr().err.startswith(f"tokendream: --out cannot be written in {out.rpartition('/')[0]}: ")


def test_games_and_futures_have_their_temperatures(tmp_path, monkeypatch, capsys):
    """The fresh games that of collecting, what the agent chooses in its dreams that of its evaluation."""
    config = dataclasses.replace(
        PLAIN,
        collect=dataclasses.replace(TINY.collect, temperature=0.7),
        evaluation=dataclasses.replace(TINY.evaluation, temperature=0.3),
    )
    run, out, played, dreamed = make_run(tmp_path / "run", config), tmp_path / "f.png", set(), set()
    act, step = Agent.act, imagine.step

    def acting(self, *args, temperature, **options):
        played.add(temperature)
        return act(self, *args, temperature=temperature, **options)

    def dreaming(*args, temperature, **options):
        dreamed.add(temperature)
        return step(*args, temperature=temperature, **options)

    monkeypatch.setattr(Agent, "act", acting)
    monkeypatch.setattr(imagine, "step", dreaming)
    flags = ["--out", str(out), "--length", "4", "--at", "50", "--futures", "2"]
    assert main(["dream", str(run), *flags]) == 0
    assert (played, dreamed) == ({0.7}, {0.3})
    assert "games at temperature 0.7, futures at 0.3" in capsys.readouterr().out
    assert main(["dream", str(run), *flags, "--temperature", "2"]) == 0
    assert (played, dreamed) == ({0.7, 2.0}, {0.3, 2.0})


def test_a_late_moment_needs_the_last_frames_only(finished, tmp_path, monkeypatch):
    """The film is the same whether all frames of the games are kept or the last of them."""
    whole, kept = tmp_path / "whole.png", tmp_path / "kept.png"
    assert main(["dream", str(finished), "--out", str(whole), "--at", "83", "--length", "6"]) == 0
    monkeypatch.setattr(films, "KEPT", 1)
    made = []
    monkeypatch.setattr(ReplayBuffer, "__init__", lambda self, *a, _init=ReplayBuffer.__init__: (
        made.append(a[0]), _init(self, *a))[1])  # fmt: skip
    assert main(["dream", str(finished), "--out", str(kept), "--at", "83", "--length", "6"]) == 0
    assert made == [2 * (TINY.dream.burn_in + 6)]
    assert kept.read_bytes() == whole.read_bytes()


def test_a_grid_is_as_square_as_it_can_be():
    five = np.stack([np.full((2, 3, 4, 4), i + 1, np.uint8) for i in range(5)])
    grid = np.stack(list(films._grid(five)))
    assert grid.shape == (2, 3, 2 * 6, 3 * 6)
    assert (grid[:, :, 6:10, :4] == 4).all()
    assert (grid[:, :, 6:, 12:] == 0).all()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "film.avi"], "ends in .mp4"),
        (["--length", "1"], "length must be in 2..5461, not 1"),
        (["--length", "5462"], "length must be in 2..5461, not 5462"),
        (["--length", "65", "--futures", "256"], "length must be in 2..64, not 65"),
        (["--at", "0"], "at must be in 1..1000000, not 0"),
        (["--at", "100000000"], "at must be in 1..1000000, not 100000000"),
        (["--at", "1", "--length", "2"], "at must be at least 2 with a length of 2, not 1"),
        (["--futures", "-1"], "futures must be in 0..256, not -1"),
    ],
)
def test_bad_input_is_one_line(finished, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    assert main(["dream", str(finished), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert main(["dream", str(tmp_path / "nowhere")]) == 2
    assert not list(tmp_path.iterdir())
