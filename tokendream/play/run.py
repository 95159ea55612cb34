"""`tokendream play`: load a run, open a port, say where it is, and play until Ctrl-C."""

from __future__ import annotations

import asyncio
import getpass
import os
import secrets
import signal
import socket
import threading
from pathlib import Path

import torch

from tokendream.errors import ConfigError, require
from tokendream.kernels.install import describe
from tokendream.play import library
from tokendream.play.hub import Hub
from tokendream.play.runner import SessionRunner
from tokendream.play.server import Access, Server, application, is_loopback, listen, serve
from tokendream.play.session import Session
from tokendream.play.view import facts_line
from tokendream.reports.wrapped import wrapped
from tokendream.runfolder.load import Trained
from tokendream.runfolder.names import name_of


def play(
    run: Path,
    *,
    host: str,
    port: int,
    token: bool,
    recording: Path | None,
    recordings: Path | None,
    temperature: float | None,
    seed: int,
    device: str,
    mode: str,
) -> int:
    """Serve a run, or an exported agent, until SIGINT or SIGTERM; it begins in `mode`. Raises ConfigError,
    CheckpointError, RecordingError or OSError, one line, for a run, a recording or an address that cannot be used."""
    require(0 <= port <= 65535, "port", "in 0..65535", port)
    # One core stays free for the network, the browser and a training run: with both of two cores shared, side by side
    # fell from 60 to 12 steps/s, as the threads wait for each other in hundreds of small products.
    torch.set_num_threads(max(1, min(4, (os.cpu_count() or 1) - 1, torch.get_num_threads())))
    # From the root: an environment may change the working folder.
    folder = (recordings or Path("recordings") / name_of(run)).absolute()
    trained = Trained.load(run, device)
    known = library.episodes(run, folder, trained, _say)
    opened = library.open_recording(recording, trained) if recording else []
    hub = Hub()
    session = Session(trained, [*opened, *known], seed=seed, temperature=temperature)
    session.set_mode(mode)
    if recording is not None and not opened:
        raise ConfigError(f"{recording} holds no episode of {library.SHORTEST} steps or more")
    if opened:
        session.open_episode(0)
    secret = secrets.token_urlsafe(18) if token or not is_loopback(host) else None
    listening = listen(host, port)
    bound = listening.getsockname()[1]
    if port not in (0, bound):
        _say(f"port {port} is in use: {bound} is taken instead")
    runner = SessionRunner(session, hub, run, folder, device, recording)
    server = serve(application(hub, runner, Access(host, secret)), listening)
    _say(f"{trained.config.env_name}, epoch {trained.epoch}, {describe(trained.compute)}")
    if facts := facts_line(trained.facts):
        _say(facts)
    for line in addresses(host, bound, secret):
        print(line, flush=True)  # whole, to be copied
    _say(f"recordings and pictures go to {folder}; Ctrl-C ends it")
    return asyncio.run(host_until_stopped(server, listening, runner))


async def host_until_stopped(server: Server, listening: socket.socket, runner: SessionRunner) -> int:
    """Run the session in its thread and the server here, until a signal comes or one of them ends."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        if threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(number, setattr, server, "should_exit", True)
    playing = asyncio.ensure_future(asyncio.to_thread(runner.run, loop.call_soon_threadsafe))
    playing.add_done_callback(lambda _: setattr(server, "should_exit", True))
    try:
        await server.serve(sockets=[listening])
    finally:
        runner.stop()
    await playing  # raises what ended it, if that was a bug
    return 0


def addresses(host: str, port: int, token: str | None) -> list[str]:
    """Where to look, here and from elsewhere."""
    query = f"/?token={token}" if token else "/"
    here = socket.gethostname()
    anywhere = host in ("0.0.0.0", "::")
    name = here if anywhere else f"[{host}]" if ":" in host else host
    lines = [f"open            http://{name}:{port}{query}"]
    if is_loopback(host):
        lines.append(f"from elsewhere  ssh -N -L {port}:{name}:{port} {getpass.getuser()}@{here}")
        lines.append("                and then the same address there")
    return lines


def _say(line: str) -> None:
    print(wrapped(line), flush=True)
