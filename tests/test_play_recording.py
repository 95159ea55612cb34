"""Recordings: what is written opens again as it was, and what is no recording is refused in one line."""

import dataclasses

import numpy as np
import pytest
import safetensors.numpy
import torch
from playing import PLAIN, load, make_run, tick
from test_films import read

from tokendream.config.env import EnvConfig
from tokendream.data.replay import ReplayBuffer
from tokendream.play import recording
from tokendream.play.library import RecordingError, episodes, open_recording
from tokendream.play.recording import RecordedStep, Recorder
from tokendream.play.session import Session
from tokendream.play.view import PlayError, picture
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.snapshot import Snapshot


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("play") / "run")


@pytest.fixture(scope="module")
def trained(run):
    return load(run)


def record(trained, mode, ticks, between=lambda session, i: None):
    """(recorder, the rows it was given) of some steps of play."""
    session = Session(trained, [], seed=2)
    session.set_mode(mode)
    recorder, rows = Recorder(trained.spaces), []
    for i in range(ticks):
        view = tick(session)
        between(session, i)
        if session.row is not None:
            rows.append(session.row)
            recorder.add(session.row, picture(view))
    session.close()
    return recorder, rows


def test_a_recording_opens_as_it_was_played(trained, tmp_path):
    recorder, rows = record(trained, "agent-game", 30)
    file, film = recorder.save(tmp_path / "new", "play", 15)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["play.mp4", "play.safetensors"]
    (episode,) = open_recording(file, trained)
    got = episode.replay.rows(np.array(episode.rows))
    for name in ("frame", "action", "reward", "end"):
        assert np.array_equal(got[name], np.stack([getattr(row, name) for row in rows])), name
    tokens = safetensors.numpy.load_file(file)["tokens"]
    assert np.array_equal(tokens, np.stack([row.tokens for row in rows]))
    assert read(film).shape == (30, 4 * 64, 4 * 3 * 64, 3)
    replay = Session(trained, [episode])
    replay.open_episode(0)
    for row in rows[1:]:
        assert np.array_equal(tick(replay).panels["frame"], row.frame)
    replay.close()


def test_a_dream_is_recorded_as_it_was_seen(trained, tmp_path):
    recorder, rows = record(trained, "agent-dream", 12)
    file, _ = recorder.save(tmp_path, "dream", 4)
    (episode,) = open_recording(file, trained)
    assert episode.length == 12
    shown = episode.replay.export(0, 12)["frame"]
    for row, frame in zip(rows, shown, strict=True):
        with trained.compute.autocast():
            drawn = trained.agent.tokenizer.decode(torch.from_numpy(row.tokens).long()).numpy()
        assert np.array_equal(frame, drawn)


def test_what_does_not_follow_begins_an_episode(trained, tmp_path):
    def between(session, i):
        if i == 9:
            session.rewind(5)
            session.paused = False
        if i == 19:
            session.set_mode("agent-dream")

    recorder, _ = record(trained, "agent-game", 30, between)
    file, film = recorder.save(tmp_path, "play", 15)
    assert [episode.length for episode in open_recording(file, trained)] == [10, 10, 10]
    assert read(film).shape == (30, 4 * 64, 4 * 3 * 64, 3)  # room for the widest


def test_nothing_recorded_is_nothing_written(trained, tmp_path):
    with pytest.raises(PlayError, match="nothing was recorded"):
        Recorder(trained.spaces).save(tmp_path, "play", 15)
    assert not list(tmp_path.iterdir())


def test_a_recording_has_a_bound(trained, monkeypatch):
    recorder = Recorder(trained.spaces)
    frame = np.zeros((3, 64, 64), np.uint8)
    monkeypatch.setattr(recording, "LIMIT", 3 * 2 * frame.nbytes)
    for _ in range(3):
        assert not recorder.full
        recorder.add(RecordedStep(frame, np.zeros(16, np.int32), 0, 0.0, False, False), frame)
    assert recorder.full


def test_another_game_or_another_size_is_refused(trained, tmp_path):
    recorder, _ = record(trained, "agent-game", 6)
    file, _ = recorder.save(tmp_path, "play", 15)
    other = dataclasses.replace(PLAIN, env=EnvConfig(size=32))
    with pytest.raises(RecordingError, match="uint8"):
        open_recording(file, load(make_run(tmp_path / "small", other, steps=8)))
    with pytest.raises(RecordingError, match="another game: its actions are STAY, LEFT, RIGHT"):
        open_recording(
            file, dataclasses.replace(trained, spaces=trained.spaces._replace(action_names=("NOOP", "FIRE", "UP")))
        )


def test_what_is_no_recording_is_refused(run, trained, tmp_path):
    recorder, _ = record(trained, "agent-game", 6)
    file, _ = recorder.save(tmp_path, "play", 15)
    whole = safetensors.numpy.load_file(file)
    bad = {
        "empty": b"",
        "text": b"no recording at all",
        "cut": file.read_bytes()[:-10],
        "lacks": safetensors.numpy.save({k: v for k, v in whole.items() if k != "tokens"}),
        "more": safetensors.numpy.save(whole | {"x": whole["reward"]}),
        "nan": safetensors.numpy.save(whole | {"reward": whole["reward"] * np.nan}),
        "action": safetensors.numpy.save(whole | {"action": whole["action"] + 5}),
        "shape": safetensors.numpy.save(whole | {"frame": whole["frame"][:, :, :8]}),
        "type": safetensors.numpy.save(whole | {"end": whole["end"].astype(np.int64)}),
        "scalar": safetensors.numpy.save(whole | {"frame": np.array(3, np.uint8)}),
        "names": safetensors.numpy.save(whole | {"actions": np.array([255, 254], np.uint8)}),
    }
    for name, content in bad.items():
        (tmp_path / f"{name}.safetensors").write_bytes(content)
        with pytest.raises(RecordingError, match=r"^[^\n]*$"):
            open_recording(tmp_path / f"{name}.safetensors", trained)
    with pytest.raises(RecordingError, match="there is no recording"):
        open_recording(tmp_path, trained)
    (tmp_path / "link.safetensors").symlink_to(file)
    with pytest.raises(RecordingError, match="there is no recording"):
        open_recording(tmp_path / "link.safetensors", trained)
    found = [episode.title for episode in episodes(run, tmp_path, trained, print)]
    assert [title for title in found if not title.startswith("training · ")] == ["play · 6 steps"]


def test_only_the_newest_rows_of_a_replay_are_read(tmp_path):
    """A buffer smaller than the run's takes its newest rows, and the files before them are not even opened."""
    run = make_run(tmp_path / "run", steps=10)
    store = Checkpoints(run)
    replay = ReplayBuffer(1000, (3, 64, 64))
    store.load_replay(3, replay)
    for epoch in (4, 5, 6):  # a file of rows each
        for i in range(20):
            replay.add(np.full((3, 64, 64), epoch * 20 + i, np.uint8), 0, 0.0, False, i == 19)
        store.save(epoch, Snapshot({"agent": {"x": torch.zeros(1)}}, {}), replay)
    files = sorted((run / "replay").iterdir())
    files[0].unlink()
    small = ReplayBuffer(30, (3, 64, 64))
    Checkpoints(run).load_replay(6, small)
    for name, column in small.export(40, 70).items():
        assert np.array_equal(column, replay.export(40, 70)[name]), name
