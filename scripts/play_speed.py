"""How fast `tokendream play` is on this machine: steps a second in each mode, and the time from a key to its picture.

    python scripts/play_speed.py runs/CrazyClimber-cpu-seed0

Steps a second are those that a viewer on loopback receives at the fastest setting, 60. From key to picture is
measured at 15 steps a second: over the websocket, from the message to the picture that its action led to, and, where
there is a Chromium, in the page, from the key to the figures beside its picture.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from websockets.sync.client import connect

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browser import chromium, find

MODES = ("agent-game", "agent-dream", "agent-both", "replay-both", "person-dream")
SECONDS, KEYS = 6.0, 60

IN_PAGE = """new Promise(done => {
  const was = document.querySelector('#actions .taken')?.textContent, start = performance.now();
  const look = () => document.querySelector('#actions .taken')?.textContent.startsWith('%s')
    ? done(performance.now() - start) : requestAnimationFrame(look);
  document.body.dispatchEvent(new KeyboardEvent('%s', {code: '%s', bubbles: true}));
  look();
})"""


def picture(socket) -> dict:
    """The state of the next picture, acknowledged."""
    while "state" not in (message := json.loads(socket.recv(timeout=30))):
        pass
    say(socket, "ack", 1)
    return message["state"]


def say(socket, *command) -> None:
    socket.send(json.dumps(command))


def enter(socket, mode: str, fps: int) -> None:
    say(socket, "mode", mode)
    say(socket, "speed", fps)
    start = time.monotonic()
    while picture(socket)["mode"] != mode:
        if time.monotonic() - start > 30:
            sys.exit(f"play_speed: there is no mode {mode} for this run")


def rate(socket, mode: str) -> float:
    enter(socket, mode, 60)
    count, start = 0, time.monotonic()
    while time.monotonic() - start < SECONDS:
        picture(socket)
        count += 1
    return count / (time.monotonic() - start)


def over_the_websocket(socket, buttons: list[str]) -> list[float]:
    """Milliseconds from a button to the picture after its action, and back to none."""
    enter(socket, "person-dream", 15)
    times, idle = [], picture(socket).get("action")
    for i in range(KEYS):
        time.sleep(0.037 * (i % 5))  # at any moment between two steps
        start = time.monotonic()
        say(socket, "hold", buttons[i % 2])
        while (picture(socket).get("action") == idle) == (i % 2 == 0):
            pass
        times.append(1000 * (time.monotonic() - start))
    return times


def in_the_page(url: str, key: str, names: tuple[str, str]) -> list[float]:
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as page:
        page.size(1440, 900)
        page.goto(url)
        page.until("document.body.dataset.mode")
        page.js("document.querySelector('[data-mode=person-dream]').click()")
        page.until(f"document.querySelector('#actions .taken')?.textContent.startsWith('{names[1]}')")
        times = []
        for i in range(KEYS):
            time.sleep(0.037 * (i % 5))
            which = (names[0], "keydown") if i % 2 == 0 else (names[1], "keyup")
            times.append(page.js(IN_PAGE % (*which, key)))
        return times


def describe(times: list[float]) -> str:
    ordered = sorted(times)
    return (
        f"median {statistics.median(times):.0f} ms, 95% below {ordered[int(0.95 * len(ordered))]:.0f} ms ({KEYS} keys)"
    )


def main(run: str) -> None:
    command = [sys.executable, "-m", "tokendream", "play", run, "--port", "0", "--recordings", tempfile.mkdtemp()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    said = ""
    while "Ctrl-C" not in said:
        if not (line := process.stdout.readline()):
            sys.exit("play_speed: play ended before it began")
        said += line
    url = re.search(r"http://\S+", said)[0]
    address = url.removeprefix("http://").rstrip("/")
    print(said.splitlines()[-5], f"load {os.getloadavg()[0]:.1f}", sep="; ")
    try:
        with connect(f"ws://{address}/ws", origin=f"http://{address}", proxy=None, max_size=None) as socket:
            for mode in MODES:
                print(f"{mode:14}{rate(socket, mode):5.1f} steps/s")
            print("key to picture, websocket:", describe(over_the_websocket(socket, ["UP", ""])))
        if find():
            print("key to picture, Chromium: ", describe(in_the_page(url, "ArrowUp", ("up", "noop"))))
    finally:
        process.terminate()
        process.wait(20)


if __name__ == "__main__":
    main(sys.argv[1])
