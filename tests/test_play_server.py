"""The server on loopback: who is let in, what garbage does, and that a slow viewer slows nobody."""

import asyncio
import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from playing import load, make_run, opened, serving, unpack
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tokendream.cli.main import main
from tokendream.play.hub import BURST, MOST_VIEWERS, RATE, WINDOW, Hub, Viewer
from tokendream.play.run import addresses
from tokendream.play.server import PAGES, listen

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("play") / "run")


@pytest.fixture
def server(run, tmp_path):
    with serving(run, tmp_path / "recordings") as one:
        yield one


def get(server, path="/", **headers):
    """(status, headers, body) of a request whose path is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


class Client:
    """A viewer that reads, and acknowledges unless told otherwise."""

    def __init__(self, server, **options):
        self.socket = server.connect(**options)
        self.state, self.arrays, self.texts = {}, {}, []

    def say(self, do, **fields):
        self.socket.send(json.dumps({"do": do, **fields}))

    def read(self, *, ack=True, timeout=10):
        message = self.socket.recv(timeout=timeout)
        if isinstance(message, str):
            self.texts.append(json.loads(message))
            return None
        self.state, self.arrays = unpack(message)
        if ack:
            self.say("ack", pictures=1)
        return self.state

    def until(self, condition, seconds=15):
        end = time.monotonic() + seconds
        while not condition(self):
            assert time.monotonic() < end, (self.state, self.texts[-3:])
            self.read()
        return self

    def notices(self):
        return [text["notice"] for text in self.texts if "notice" in text]

    def close(self):
        self.socket.close()


# The mailbox, without a network.


def test_a_viewer_has_one_place_for_a_picture():
    async def go():
        viewer = Viewer(1)
        for i in range(5):
            viewer.offer(b"%d" % i)
        assert await viewer.next() == b"4"
        assert (viewer.sent, viewer.dropped) == (1, 4)
        viewer.offer(b"5")
        viewer.tell("text")
        assert await viewer.next() == "text"  # words first: they are few
        assert await viewer.next() == b"5"

    asyncio.run(go())


def test_who_does_not_acknowledge_gets_no_more_and_then_the_newest():
    async def go():
        viewer = Viewer(1)
        for i in range(WINDOW):
            viewer.offer(b"%d" % i)
            await viewer.next()
        for i in range(100):
            viewer.offer(b"late %d" % i)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(viewer.next(), 0.05)
        assert (viewer.sent, viewer.dropped) == (WINDOW, 99)
        viewer.acknowledge(1)
        assert await viewer.next() == b"late 99"
        viewer.acknowledge(64)  # more than were sent: no credit
        for i in range(WINDOW):
            viewer.offer(b"%d" % i)
            await viewer.next()
        viewer.offer(b"x")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(viewer.next(), 0.05)

    asyncio.run(go())


def test_a_viewer_may_say_so_much():
    viewer = Viewer(1, now=0.0)
    assert sum(viewer.allows(1.0, 0.0) for _ in range(1000)) == BURST
    viewer = Viewer(1, now=0.0)
    assert all(viewer.allows(1.0, i / RATE) for i in range(5000))


def test_pictures_are_not_queued_on_the_way_to_the_loop():
    async def go():
        hub = Hub()
        hub.attach(asyncio.get_running_loop())
        viewer = hub.join()
        for i in range(1000):  # the loop has no turn in between
            hub.publish(b"%d" % i)
        await asyncio.sleep(0)
        assert viewer.dropped == 0
        while isinstance(message := await viewer.next(), str):
            pass
        assert message == b"999"

    asyncio.run(go())


def test_what_a_page_must_know_is_never_pushed_out():
    async def go():
        hub = Hub()
        hub.attach(asyncio.get_running_loop())
        hub.set_up({"env": "Pong"})
        viewer = hub.join()
        for _ in range(60):
            hub.leave(hub.join())
            hub.tell("a line")
        await asyncio.sleep(0)
        texts = [json.loads(await viewer.next()) for _ in range(2 + 32)]
        assert texts[0] == {"setup": {"env": "Pong"}}
        assert texts[1] == {"you": {"controls": True, "free": False, "viewers": 1}}
        assert not viewer._texts

    asyncio.run(go())


def test_controls_are_held_by_one():
    async def go():
        hub = Hub()
        hub.attach(asyncio.get_running_loop())
        first, second = hub.join(), hub.join()
        assert hub.holder is first
        assert not hub.take(second)
        hub._heard -= 31  # its holder fell asleep
        assert hub.take(second)
        hub.release(first)  # holds nothing
        assert hub.holder is second
        hub.leave(second)
        assert hub.holder is None
        assert hub.take(first)
        assert len([hub.join() for _ in range(MOST_VIEWERS)]) == MOST_VIEWERS
        assert hub.join() is None

    asyncio.run(go())


# Who is let in.


def test_the_page_and_its_files(server):
    status, headers, body = get(server)
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in headers["content-security-policy"]
    for name in re.findall(rb'(?:src|href)="/([\w.]+)"', body):
        assert get(server, f"/{name.decode()}")[0] == 200


def test_the_page_is_served_whole_and_packaged():
    folder = ROOT / "tokendream" / "play" / "page"
    assert {path.name for path in folder.iterdir()} == set(PAGES)
    with (ROOT / "pyproject.toml").open("rb") as file:
        data = tomllib.load(file)["tool"]["setuptools"]["package-data"]["tokendream"]
    assert "play/page/*" in data
    for path in folder.iterdir():  # what a page asks for from elsewhere it does not get: see the policy
        assert not re.findall(r"https?://", path.read_text()), path


PATHS = """
    /../pyproject.toml /..%2fplayer.py /files/..%2f..%2fconfig.json /files/x.mp4 /%2fetc%2fpasswd /files/%2fetc%2fpasswd
    /play.css/ /__init__.py /files/
"""


@pytest.mark.parametrize("path", PATHS.split())
def test_no_path_of_a_client_is_opened(server, path):
    assert get(server, path)[0] in (404, 307)


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:9000", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("10.1.2.3:8008", 200),
     ("evil.example", 403), ("127.0.0.1.evil.example:80", 403), ("", 403), ("[", 403)],
)  # fmt: skip
def test_names_that_could_be_made_to_point_here_are_refused(server, host, status):
    assert get(server, Host=host)[0] == status


def test_only_our_own_page_opens_a_websocket(server):
    for origin in ("http://evil.example", "http://127.0.0.1:1", "null", None, f"file://127.0.0.1:{server.port}"):
        with pytest.raises(InvalidStatus, match="403"):
            server.connect(origin=origin)
    server.connect().close()


def test_with_a_token_nothing_is_shown_without_it(run, tmp_path):
    with serving(run, tmp_path, token="let-me-in") as server:
        for query in ("", "?token=", "?token=let-me", "?token=%ff"):
            assert get(server, f"/{query}")[0] == 403
            with pytest.raises(InvalidStatus, match="403"):
                server.connect(query=query)
        assert get(server, "/files/x")[0] == 403
        assert get(server, "/?token=let-me-in")[0] == 200
        client = Client(server, query="?token=let-me-in")
        client.until(lambda c: c.state)
        client.close()


# What comes over the websocket.


def test_a_viewer_is_told_the_game_and_sees_it_move(server):
    client = Client(server).until(lambda c: c.state.get("step", 0) > 3)
    setup = next(text["setup"] for text in client.texts if "setup" in text)
    assert [mode["name"] for mode in setup["modes"]][:2] == ["agent-game", "person-game"]
    assert [action["name"] for action in setup["actions"]] == ["STAY", "LEFT", "RIGHT"]
    assert len(setup["palette"]) == 16
    assert all(0 <= c <= 255 for colour in setup["palette"] for c in colour)
    assert {"you": {"controls": True, "free": False, "viewers": 1}} in client.texts
    client.close()


def test_modes_keys_and_steps_over_the_wire(server):
    client = Client(server)
    client.say("mode", mode="person-dream")
    client.say("pause", on=True)
    client.until(lambda c: c.state.get("paused") and c.state["mode"] == "person-dream")
    step = client.state["step"]
    client.say("hold", buttons="LEFT")
    client.until(lambda c: c.state["step"] == step + 1)
    assert client.state["action"] == 1
    client.say("act", action=2)
    client.until(lambda c: c.state["step"] == step + 2)
    client.say("rewind", steps=1)
    client.until(lambda c: c.state["step"] == step + 1)
    client.say("futures", on=True)
    client.until(lambda c: "futures" in c.arrays)
    assert client.arrays["futures"].shape == (16, 3, 64, 64)
    client.close()


def test_garbage_is_answered_in_one_line_and_the_server_goes_on(server):
    client = Client(server)
    for text in ("nonsense", '{"do": "dance"}', '{"do": "mode", "mode": "x"}', '{"do": "open", "episode": 99}'):
        client.socket.send(text)
    client.socket.send(b"\x00\xff")
    client.until(lambda c: len(c.notices()) >= 5)
    assert all("\n" not in line and len(line) < 250 for line in client.notices())
    assert any("must be text" in line for line in client.notices())
    step = client.state.get("step", 0)
    client.until(lambda c: c.state.get("step", 0) > step + 2)
    client.close()


def flood(client, message, times):
    for _ in range(times):
        client.socket.send(message)
    while True:
        client.read(ack=False)


def test_who_says_too_much_or_too_long_is_shown_out(server):
    for message, times in (("garbage", 100), ('{"do": "step"}', 1000), ("x" * 5000, 1)):
        client = Client(server)
        with pytest.raises(ConnectionClosed) as closed:
            flood(client, message, times)
        assert closed.value.rcvd.code in (1008, 1009)
    client = Client(server).until(lambda c: c.state)
    client.close()


def test_one_holds_the_controls_and_others_watch(server):
    first = Client(server).until(lambda c: c.state)
    second = Client(server).until(lambda c: c.state)
    second.say("pause", on=True)
    second.until(lambda c: c.notices())
    assert second.notices() == ["somebody else holds the controls"]
    assert not server.session.paused
    first.say("release")
    second.until(lambda c: any(t.get("you", {}).get("free") for t in c.texts))  # two sockets have no common order
    second.say("take")
    second.until(lambda c: any(t.get("you", {}).get("controls") for t in c.texts))
    second.say("pause", on=True)
    second.until(lambda c: c.state["paused"])
    second.socket.socket.shutdown(socket.SHUT_RDWR)  # vanishes without a word
    first.until(lambda c: {"you": {"controls": False, "free": True, "viewers": 1}} in c.texts)
    first.say("pause", on=False)  # free controls are taken by using them
    first.until(lambda c: not c.state["paused"])
    first.close()


def test_a_recording_is_written_fetched_and_opened_again(server, tmp_path):
    client = Client(server)
    client.say("speed", fps=60)
    client.say("record", on=True)
    client.until(lambda c: (c.state.get("recording") or 0) >= 8)
    client.say("record", on=False)
    client.say("picture")
    files = {}
    client.until(lambda c: len([t for t in c.texts if t.get("file")]) >= 3)
    for text in client.texts:
        if text.get("file"):
            files[text["file"].rpartition(".")[2]] = text["file"]
    assert set(files) == {"mp4", "safetensors", "png"}
    for kind, magic in (("mp4", b"ftyp"), ("png", b"PNG")):
        status, _, body = get(server, f"/files/{files[kind]}")
        assert status == 200
        assert magic in body[:16]
    client.until(lambda c: sum("setup" in text for text in c.texts) >= 2)
    titles = [e["title"] for e in [t["setup"] for t in client.texts if "setup" in t][-1]["episodes"]]
    number = next(i for i, title in enumerate(titles) if title.startswith("play-"))
    client.say("open", episode=number)
    client.until(lambda c: c.state.get("tape", {}).get("episode") == number)
    client.close()
    with serving(server.player._run_dir, tmp_path / "recordings") as again:  # and by the next `tokendream play`
        assert any(e.title.startswith("play-") for e in again.session.episodes)


def test_a_newer_checkpoint_is_said_and_read_on_demand(tmp_path, monkeypatch):
    from tokendream.play import player

    monkeypatch.setattr(player, "LOOK_AGAIN", 0.0)
    run = make_run(tmp_path / "run", epoch=3)
    with serving(run, tmp_path / "recordings") as server:
        client = Client(server).until(lambda c: c.state)
        make_run(run, epoch=7, seed=1)
        client.until(lambda c: any("checkpoint of epoch 7" in line for line in c.notices()))
        assert client.state["epoch"] == 3
        client.say("reload")
        client.until(lambda c: c.state["epoch"] == 7)
        for path in (run / "checkpoints" / "epoch-000007").iterdir():
            path.write_bytes(b"broken")
        for path in (run / "checkpoints" / "epoch-000003").iterdir():
            path.write_bytes(b"broken")
        client.say("reload")
        client.until(lambda c: any("no checkpoint" in line for line in c.notices()))
        step = client.state["step"]
        client.until(lambda c: c.state["step"] > step)
        client.close()


def test_nothing_runs_for_nobody(server):
    client = Client(server).until(lambda c: c.state.get("step", 0) > 1)
    client.close()
    end = time.monotonic() + 10
    while server.hub.watching():
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.3)
    step = server.session.now.step
    time.sleep(0.5)
    assert server.session.now.step == step


def test_a_blocked_viewer_slows_nobody(server):
    """20 viewers, of which one never reads: it is sent WINDOW pictures and no more, the others all the rest."""
    blocked = server.connect(close_timeout=0.1)
    clients = [Client(server, close_timeout=0.1) for _ in range(19)]
    stop = threading.Event()
    counts = [0] * len(clients)

    def watch(i):
        while not stop.is_set():
            if clients[i].read() is not None:
                counts[i] += 1

    threads = [threading.Thread(target=watch, args=(i,)) for i in range(len(clients))]
    for thread in threads:
        thread.start()
    time.sleep(3)
    stop.set()
    for thread in threads:
        thread.join(15)
        assert not thread.is_alive()
    first = server.hub.viewers[min(server.hub.viewers)]
    assert first.sent == WINDOW
    assert first.dropped > WINDOW
    published = first.sent + first.dropped
    assert min(counts) > 0.5 * published  # all get most of what there is, on a machine that is busy with 20 readers
    for client in clients:
        client.close()
    blocked.close()


# The command.


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
        (["nowhere"], "there is no run folder nowhere"),
        ([], "Missing"),
        (["RUN", "--port", "70000"], "port must be in 0..65535, not 70000"),
        (["RUN", "--temperature", "0"], "temperature must be positive and finite, not 0.0"),
        (["RUN", "--recording", "nothing"], "there is no recording nothing"),
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
    assert message in error
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
        client.say("record", on=True)
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
        client.say("pause", on=True)
        client.say("reset")  # which in the game is a new one
        client.say("record", on=True)
        client.until(lambda c: c.state.get("recording") == 0 and c.state["step"] == 0)
        for step in range(steps):
            seen.append((client.arrays["panel.frame"], client.arrays["tokens.reconstruction"]))
            client.say("step")
            client.until(lambda c, step=step: c.state["step"] == step + 1)
            taken.append((client.state["action"], client.state["reward"]))
        client.say("record", on=False)
        client.until(lambda c: sum("file" in text and text["file"] != "" for text in c.texts) == 2)
        client.close()
    (file,) = (tmp_path / "recordings").glob("*.safetensors")
    assert len({action for action, _ in taken}) > 1
    assert len({frame.tobytes() for frame, _ in seen}) == steps

    moved = file.rename(tmp_path / "a game.safetensors")
    with Process(run, tmp_path, "--recording", str(moved), "--recordings", str(tmp_path / "empty")) as process:
        client = Client(process)
        client.until(lambda c: any("setup" in text for text in c.texts) and c.state)
        titles = [e["title"] for e in next(text["setup"] for text in client.texts if "setup" in text)["episodes"]]
        assert titles[0] == f"a game · {steps} steps"
        client.say("pause", on=True)
        client.say("seek", frame=0)
        client.until(lambda c: c.state["paused"] and c.state["tape"]["at"] == 0)
        assert client.state["mode"] == "replay"
        assert client.state["tape"] == {"episode": 0, "at": 0, "length": steps}
        for step, (frame, tokens) in enumerate(seen):
            assert np.array_equal(client.arrays["panel.frame"], frame), step
            assert np.array_equal(client.arrays["tokens.reconstruction"], tokens), step
            if step + 1 < steps:
                client.say("step")
                client.until(lambda c, step=step: c.state["tape"]["at"] == step + 1)
                assert (client.state["action"], client.state["reward"]) == taken[step]
        assert "Traceback" not in process.end(signal.SIGINT)
        client.close()
    rows = safetensors.numpy.load_file(moved)
    assert rows["action"].tolist() == [action for action, _ in taken]  # the last one, too, to which no frame follows
    assert np.array_equal(rows["tokens"], np.stack([tokens for _, tokens in seen]))
