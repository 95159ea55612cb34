"""For the tests of play: a run folder made without training, and a server on loopback in a thread."""

import asyncio
import base64
import contextlib
import dataclasses
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from websockets.sync.client import ClientConnection, connect

from tokendream.agent.agent import Agent
from tokendream.agent.collect import Collector
from tokendream.config.config import Config
from tokendream.config.presets import TINY
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.envs.registry import make
from tokendream.play.hub import Hub
from tokendream.play.library import episodes
from tokendream.play.run import host_until_stopped
from tokendream.play.runner import SessionRunner
from tokendream.play.server import Access, application, listen, serve
from tokendream.play.session import Session
from tokendream.play.view import View
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.load import Trained
from tokendream.runfolder.snapshot import Snapshot

PLAIN = dataclasses.replace(TINY, precision="float32")


def make_run(folder: Path, config: Config = PLAIN, *, steps: int = 100, epoch: int = 3, seed: int = 0) -> Path:
    """A run folder with a checkpoint of random weights and a replay buffer of real games."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config.to_json())
    envs = make(config, 1, evaluation=False)
    torch.manual_seed(seed)
    agent = Agent.from_config(config, envs.spaces).eval()
    with torch.no_grad():
        agent.world_model.end[-1].bias.copy_(torch.tensor([9.0, -9.0]))  # else every other dreamed step is the last
    replay = ReplayBuffer(config.collect.capacity, envs.spaces.observation.frame_shape)
    compute, generator = Compute.resolve("cpu", config.precision), torch.Generator().manual_seed(seed)
    settings = dataclasses.replace(config.collect, epsilon=1.0)
    collector = Collector(envs, replay, agent, compute, settings, seed=0, generator=generator)
    for _ in range(steps):
        collector.step()
    envs.close()
    Checkpoints(folder).save(epoch, Snapshot({"agent": agent.state_dict()}, {}), replay)
    return folder


def load(run: Path) -> Trained:
    return Trained.load(run, "cpu")


def tick(session: Session) -> View:
    """What the player does when a step is due, and the picture after it."""
    session.row = None
    if not session.paused:
        session.advance()
    return session.view()


def pixels(url: str) -> np.ndarray:
    """The frame, 3 x H x W, of a panel's data URL."""
    kind, _, data = url.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).transpose(2, 0, 1)


def opened(url: str, **options) -> ClientConnection:
    """A websocket that is open; the test closes it. (`websockets` wants to be entered, and tests hold several.)"""
    return connect(url, **options).__enter__()


class Client:
    """A viewer that reads, and acknowledges unless told otherwise."""

    def __init__(self, server, **options):
        self.socket = server.connect(**options)
        self.state, self.picture, self.facts = {}, {}, []

    def say(self, *command):
        self.socket.send(json.dumps(command))

    def read(self, *, ack=True, timeout=10):
        """The next message: the state of a picture, or None for facts."""
        message = json.loads(self.socket.recv(timeout=timeout))
        if "state" not in message:
            self.facts.append(message)
            return None
        self.picture, self.state = message, message["state"]
        if ack:
            self.say("ack", 1)
        return self.state

    def panel(self, name):
        return pixels(self.picture["panels"][name])

    def until(self, condition, seconds=15):
        end = time.monotonic() + seconds
        while not condition(self):
            assert time.monotonic() < end, (self.state, self.facts[-3:])
            self.read()
        return self

    def notices(self):
        return [fact["notice"] for fact in self.facts if "notice" in fact]

    def setup(self):
        """The last one."""
        return [fact["setup"] for fact in self.facts if "setup" in fact][-1]

    def close(self):
        self.socket.close()


class Serving:
    """A running server and what a test needs of it."""

    def __init__(self, player: SessionRunner, hub: Hub, port: int) -> None:
        self.player, self.hub, self.port = player, hub, port
        self.url = f"http://127.0.0.1:{port}/"

    @property
    def session(self) -> Session:
        return self.player.session

    def connect(self, **options) -> ClientConnection:
        options = {"origin": f"http://127.0.0.1:{self.port}", "proxy": None, "max_size": None} | options
        query = options.pop("query", "")
        return opened(f"ws://127.0.0.1:{self.port}/ws{query}", **options)


@contextlib.contextmanager
def serving(run: Path, recordings: Path, token: str | None = None, host: str = "127.0.0.1") -> Iterator[Serving]:
    trained = load(run)
    hub = Hub()
    session = Session(trained, episodes(run, recordings, trained, print))
    player = SessionRunner(session, hub, run, recordings, "cpu")
    listening = listen("127.0.0.1", 0)
    server = serve(application(hub, player, Access(host, token)), listening)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            asyncio.run(host_until_stopped(server, listening, player))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    port = listening.getsockname()[1]
    thread.start()
    try:
        yield Serving(player, hub, port)
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()
    for error in failed:
        raise error
