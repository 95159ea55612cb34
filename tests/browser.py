"""Headless Chromium for the tests of the page, driven over the DevTools protocol with the `websockets` package."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from websockets.sync.client import connect

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
    "--disable-extensions", "--disable-default-apps", "--disable-dev-shm-usage", "--mute-audio", "--no-proxy-server",
)  # fmt: skip

LOCAL = build_opener(ProxyHandler({}))


def find() -> str | None:
    """Where Chromium is, or None. With TOKENDREAM_REQUIRE_BROWSER set, None is an error."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None and os.environ.get("TOKENDREAM_REQUIRE_BROWSER"):
        raise AssertionError("TOKENDREAM_REQUIRE_BROWSER is set, but there is no Chromium on the PATH")
    return path


class Page:
    """One tab."""

    def __init__(self, address: str) -> None:
        # Without pings: on a busy machine a browser may be silent for longer than their 20 s; `call` has its own bound.
        self._socket = connect(address, max_size=None, proxy=None, ping_interval=None).__enter__()
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: object) -> dict:
        """One command of the protocol and its answer. Errors of the page that come by are kept in `complaints`."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        end = time.monotonic() + 30  # events come all the time: waiting for each message would not be a bound
        while True:
            message = json.loads(self._socket.recv(timeout=max(0.0, end - time.monotonic())))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            if message.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(message["params"]["exceptionDetails"])[:400])
            if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.complaints.append(message["params"]["entry"]["text"])
            if message.get("method") == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                if not url.startswith(("http://127.0.0.1:", "data:", "blob:")):
                    self.complaints.append(f"a request to {url}")

    def goto(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def js(self, expression: str) -> object:
        """The value of an expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> object:
        """Wait until an expression is true; its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.js(expression):
                return value
            time.sleep(0.03)
        seen = self.js("JSON.stringify(document.body.dataset) + ' ' + document.body.innerText.replace(/\\s+/g, ' ')")
        raise AssertionError(f"not within {seconds} s: {expression}; {self.complaints}; the page: {seen}")

    def key(self, code: str, *, shift: bool = False, hold: Callable[[], object] | None = None) -> None:
        """Press a key and let it go; between the two, `hold`."""
        where = {"code": code, "key": code.removeprefix("Key").lower(), "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", **where)
        if hold is not None:
            hold()
        self.call("Input.dispatchKeyEvent", type="keyUp", **where)

    def size(self, width: int, height: int, scale: float = 1, mobile: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=mobile)

    def shoot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A fresh browser with one tab, gone at the end."""
    path = find()
    assert path is not None
    process = subprocess.Popen(
        [path, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port_file, end = profile / "DevToolsActivePort", time.monotonic() + 30
        while not (port_file.exists() and port_file.read_text().strip()):
            assert process.poll() is None, "Chromium ended at once"
            assert time.monotonic() < end, "Chromium did not start within 30 s"
            time.sleep(0.05)
        port = int(port_file.read_text().split()[0])
        with LOCAL.open(f"http://127.0.0.1:{port}/json/list", timeout=20) as answer:
            tabs = json.load(answer)
        page = Page(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))
        yield page
        page._socket.close()
    finally:
        process.terminate()
        process.wait(10)
