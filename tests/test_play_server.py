"""The server on loopback: who is let in, what garbage does, and that a slow viewer slows nobody."""

import contextlib
import http.client
import logging
import re
import socket
import threading
import time
import tomllib
from pathlib import Path

import pytest
from playing import Client, make_run, pixels, serving
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tokendream.play.hub import WINDOW
from tokendream.play.session import Session

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


def test_the_page_and_its_files(server):
    status, headers, body = get(server)
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in headers["content-security-policy"]
    for name in re.findall(rb'(?:src|href)="/([\w.]+)"', body):
        assert get(server, f"/{name.decode()}")[0] == 200


def test_the_page_is_served_whole_and_packaged(server):
    folder = ROOT / "tokendream" / "play" / "page"
    for path in folder.iterdir():
        status, headers, body = get(server, f"/{path.name}")
        assert (status, body) == (200, path.read_bytes())
        assert re.match(r"text/(html|css|javascript)|application/javascript", headers["content-type"])
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
    setup = client.setup()
    assert setup["actions"] == ["STAY", "LEFT", "RIGHT"]
    assert len(setup["palette"]) == 16
    assert pixels(setup["book"]).shape == (3, 17, 16 * 17)  # 16 codes in a row, cells of 16 pixels
    assert all(0 <= lightness <= 1 and a * a + b * b < 0.01 for lightness, a, b in setup["palette"])
    assert {"you": {"controls": True, "free": False, "viewers": 1}} in client.facts
    client.close()


def test_modes_keys_and_steps_over_the_websocket(server):
    client = Client(server)
    client.say("mode", "person-dream")
    client.say("pause", True)
    client.until(lambda c: c.state.get("paused") and c.state["mode"] == "person-dream")
    step = client.state["step"]
    client.say("hold", "LEFT")
    client.until(lambda c: c.state["step"] == step + 1)
    assert client.state["action"] == 1
    client.say("act", 2)
    client.until(lambda c: c.state["step"] == step + 2)
    client.say("rewind", 1)
    client.until(lambda c: c.state["step"] == step + 1)
    client.say("futures", True)
    client.until(lambda c: "futures" in c.state)
    assert client.panel("futures").shape == (3, 4 * 64, 4 * 64)
    assert len(client.state["futures"]["returns"]) == len(client.state["futures"]["ends"]) == 16
    client.close()


def test_garbage_is_answered_in_one_line_and_the_server_goes_on(server):
    client = Client(server)
    for text in ("nonsense", '["dance"]', '["mode", "x"]', '["open", 99]', '["rewind", -1]'):
        client.socket.send(text)
    client.socket.send(b"\x00\xff")
    client.until(lambda c: len(c.notices()) >= 6)
    assert all("\n" not in line and len(line) < 250 for line in client.notices())
    step = client.state.get("step", 0)
    client.until(lambda c: c.state.get("step", 0) > step + 2)
    client.close()


def watch_to_the_end(run, recordings, notices):
    with serving(run, recordings) as server:
        client = Client(server)
        with contextlib.suppress(ConnectionClosed):
            while True:
                client.read()
        notices += client.notices()


def test_a_bug_ends_the_server_and_is_no_polite_line(run, tmp_path, monkeypatch):
    def advance(session):
        raise ValueError("a bug")

    monkeypatch.setattr(Session, "advance", advance)
    notices = []
    with pytest.raises(ValueError, match="a bug"):
        watch_to_the_end(run, tmp_path, notices)
    assert notices == []


def flood(client, message, times):
    for _ in range(times):
        client.socket.send(message)
    while True:
        client.read(ack=False)


def test_who_says_too_much_or_too_long_is_shown_out(server):
    for message, times in (("garbage", 100), ('["step"]', 1000), ("x" * 5000, 1)):
        client = Client(server)
        with pytest.raises(ConnectionClosed) as closed:
            flood(client, message, times)
        assert closed.value.rcvd.code in (1008, 1009)
    client = Client(server).until(lambda c: c.state)
    client.close()


def test_the_end_does_not_wait_for_what_was_asked_for(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Session, "advance", lambda session: time.sleep(0.1))
    with serving(run, tmp_path) as server:
        for _ in range(200):
            server.player.submit("step")
        start = time.monotonic()
    assert time.monotonic() - start < 10  # of 20 s


def test_one_holds_the_controls_and_others_watch(server):
    first = Client(server).until(lambda c: c.state)
    second = Client(server).until(lambda c: c.state)
    second.say("pause", True)
    second.until(lambda c: c.notices())
    assert second.notices() == ["somebody else holds the controls"]
    assert not server.session.paused
    first.say("mode", "person-game")
    first.say("hold", "LEFT")
    second.until(lambda c: (c.state["mode"], c.state.get("action")) == ("person-game", 1))
    first.say("release")
    second.until(lambda c: any(t.get("you", {}).get("free") for t in c.facts))  # two sockets have no common order
    second.say("take")
    second.until(lambda c: any(t.get("you", {}).get("controls") for t in c.facts))
    second.until(lambda c: c.state.get("action") == 0)  # nobody's key is held any more
    second.say("pause", True)
    second.until(lambda c: c.state["paused"])
    second.socket.socket.shutdown(socket.SHUT_RDWR)  # vanishes without a word
    first.until(lambda c: {"you": {"controls": False, "free": True, "viewers": 1}} in c.facts)
    first.say("pause", False)  # free controls are taken by using them
    first.until(lambda c: not c.state["paused"])
    first.close()


def test_a_recording_is_written_fetched_and_opened_again(server, tmp_path):
    client = Client(server)
    client.say("speed", 60)
    client.say("record", True)
    client.until(lambda c: (c.state.get("recording") or 0) >= 8)
    client.say("record", False)
    client.say("picture")
    files = {}
    client.until(lambda c: len([t for t in c.facts if t.get("file")]) >= 3)
    for text in client.facts:
        if text.get("file"):
            files[text["file"].rpartition(".")[2]] = text["file"]
    assert set(files) == {"mp4", "safetensors", "png"}
    for kind, magic in (("mp4", b"ftyp"), ("png", b"PNG")):
        status, _, body = get(server, f"/files/{files[kind]}")
        assert status == 200
        assert magic in body[:16]
    client.until(lambda c: sum("setup" in text for text in c.facts) >= 2)
    number = next(i for i, title in enumerate(client.setup()["episodes"]) if title.startswith("play-"))
    client.say("open", number)
    client.until(lambda c: c.state.get("replay", {}).get("episode") == number)
    client.close()
    with serving(server.player._run_dir, tmp_path / "recordings") as again:  # and by the next `tokendream play`
        assert any(e.title.startswith("play-") for e in again.session.episodes)


def test_a_newer_checkpoint_is_said_and_read_on_demand(tmp_path, monkeypatch):
    from tokendream.play import runner

    monkeypatch.setattr(runner, "LOOK_AGAIN", 0.0)
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
    while server.hub.viewers:
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.3)
    step = server.session.now.step
    time.sleep(0.5)
    assert server.session.now.step == step


def test_a_blocked_viewer_slows_nobody(server, monkeypatch):
    """20 viewers, of which one never reads: it is sent WINDOW pictures and no more, the others most of the rest."""
    published = []
    publish = server.hub.publish
    monkeypatch.setattr(server.hub, "publish", lambda picture: (published.append(picture), publish(picture)))
    blocked = Client(server, close_timeout=0.1)
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
    assert len(published) > 2 * WINDOW
    assert min(counts) > 0.5 * len(published)  # on a machine that is busy with 20 readers
    sent = 0
    with contextlib.suppress(TimeoutError):
        while True:
            sent += blocked.read(ack=False, timeout=0.5) is not None
    assert sent == WINDOW
    for client in [blocked, *clients]:
        client.close()


def test_a_server_closes_nobody_s_log(run, tmp_path):
    """absl's handler, which TensorBoard brings along, closes standard error when it is closed."""
    closed = []
    handler = logging.NullHandler()
    handler.close = lambda: closed.append(handler)
    try:
        with serving(run, tmp_path / "recordings"):
            pass
    finally:
        del handler.close
    assert not closed
