"""`tokendream play` as a process: its port and addresses, what it refuses, signals, and the recording it opens."""

import contextlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from playing import Client, load, make_run, opened, serving

from tokendream.cli.main import main
from tokendream.play.run import addresses
from tokendream.play.server import listen


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("play") / "run")


def test_a_port_in_use_is_followed_by_the_next():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with listen("127.0.0.1", port) as other:
            assert port < other.getsockname()[1] <= port + 50
        with pytest.raises(OSError, match=f"cannot listen at 127.0.0.1, port {port}"):
            listen("127.0.0.1", port, tries=1)


def test_addresses_say_how_to_get_there():
    here = addresses("127.0.0.1", 8008, None)
    assert "http://127.0.0.1:8008/" in here[0]
    assert "ssh -N -L 8008:127.0.0.1:8008 " in here[1]
    (there,) = addresses("0.0.0.0", 8008, "secret")
    assert there.endswith(":8008/?token=secret")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere"], "there is no run folder TMP/nowhere"),
        ([], "Missing"),
        (["RUN", "--port", "70000"], "port must be in 0..65535, not 70000"),
        (["RUN", "--temperature", "0"], "temperature must be positive and finite, not 0.0"),
        (["RUN", "--recording", "nothing"], "there is no recording TMP/nothing"),
        (["RUN", "--device", "gpu"], "device must be"),
        (["RUN", "--host", "203.0.113.7"], "cannot listen at 203.0.113.7"),
        (["EMPTY"], "holds no checkpoint"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "EMPTY" / "config.json").write_text((run / "config.json").read_text())
    assert main(["play", *(str(run) if word == "RUN" else word for word in argv)]) == 2
    error = capsys.readouterr().err
    assert message.replace("TMP", str(tmp_path)) in error
    assert error.count("\n") == 1


class Process(contextlib.AbstractContextManager):
    """`tokendream play` as a process of its own, once it has said where it is; a test that fails leaves none behind."""

    def __init__(self, run, cwd, *flags):
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "tokendream", "play", str(run), "--port", "0", "--device", "cpu", *flags],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said = ""
        for line in self.popen.stdout:
            self.said += line
            if "Ctrl-C" in line:
                break
        self.port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", self.said)[1])

    def connect(self):
        return opened(f"ws://127.0.0.1:{self.port}/ws", origin=f"http://127.0.0.1:{self.port}", proxy=None)

    def end(self, number):
        """Send a signal and wait; says whatever it still had to say."""
        self.popen.send_signal(number)
        assert self.popen.wait(30) == 0
        return self.popen.stdout.read()

    def __exit__(self, *error):
        self.popen.kill()
        self.popen.wait()
        self.popen.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_what_is_recorded_is_kept(run, tmp_path, number):
    with Process(run, tmp_path) as process:
        assert "ssh -N -L" in process.said
        client = Client(process)
        client.say("record", True)
        client.until(lambda c: (c.state.get("recording") or 0) >= 8)
        assert "Traceback" not in process.end(number)
        client.close()
    assert len(list((tmp_path / "recordings").rglob("*.safetensors"))) == 1
    assert load(run).epoch == 3


def test_play_opens_the_recording_that_its_flag_names(run, tmp_path):
    """Record a game step by step; another process that is given the file shows the same frames, tokens and actions."""
    steps, seen, taken = 12, [], []
    with serving(run, tmp_path / "recordings") as server:
        client = Client(server)
        client.say("pause", True)
        client.say("reset")  # which in the game is a new one
        client.say("record", True)
        client.until(lambda c: c.state.get("recording") == 0 and c.state["step"] == 0)
        for step in range(steps):
            seen.append((client.panel("frame"), client.picture["tokens"]["reconstruction"]))
            client.say("step")
            client.until(lambda c, step=step: c.state["step"] == step + 1)
            taken.append((client.state["action"], client.state["reward"]))
        client.say("record", False)
        client.until(lambda c: sum(bool(fact.get("file")) for fact in c.facts) == 2)
        client.close()
    (file,) = (tmp_path / "recordings").glob("*.safetensors")
    assert len({action for action, _ in taken}) > 1
    assert len({frame.tobytes() for frame, _ in seen}) == steps

    moved = file.rename(tmp_path / "a game.safetensors")
    with Process(run, tmp_path, "--recording", str(moved), "--recordings", str(tmp_path / "empty")) as process:
        client = Client(process)
        client.until(lambda c: c.state)
        assert client.setup()["episodes"][0] == f"a game · {steps} steps"
        client.say("pause", True)
        client.say("seek", 0)
        client.until(lambda c: c.state["paused"] and c.state["replay"]["at"] == 0)
        assert client.state["mode"] == "replay"
        assert client.state["replay"] == {"episode": 0, "at": 0, "length": steps}
        for step, (frame, tokens) in enumerate(seen):
            assert np.array_equal(client.panel("frame"), frame), step
            assert np.array_equal(client.picture["tokens"]["reconstruction"], tokens), step
            if step + 1 < steps:
                client.say("step")
                client.until(lambda c, step=step: c.state["replay"]["at"] == step + 1)
                assert (client.state["action"], client.state["reward"]) == taken[step]
        client.facts.clear()
        client.say("reload")
        client.until(lambda c: any("setup" in fact for fact in c.facts))
        assert client.setup()["episodes"][0] == f"a game · {steps} steps"
        assert "Traceback" not in process.end(signal.SIGINT)
        client.close()
    rows = safetensors.numpy.load_file(moved)
    assert rows["action"].tolist() == [action for action, _ in taken]  # the last one, too, to which no frame follows
    assert np.array_equal(rows["tokens"], np.stack([tokens for _, tokens in seen]))
