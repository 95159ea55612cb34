"""The thread in which the model runs: at its own pace, whoever watches and however slowly.

Commands come in through a bounded queue, pictures and lines go out to the hub on the server's loop. What a person can
get wrong becomes one line to everybody; a bug ends the thread, and with it the server.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokendream.errors import TokendreamError, one_line
from tokendream.kernels.install import describe
from tokendream.play import library
from tokendream.play.hub import Hub
from tokendream.play.recording import Recorder
from tokendream.play.session import Session
from tokendream.play.view import SPEEDS, facts_line, pack, picture, png_url
from tokendream.reports import media, pictures
from tokendream.reports.run_page import ACROSS
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.load import Trained
from tokendream.runfolder.names import name_of

LOOK_AGAIN = 5.0
"""Seconds between two looks for a newer checkpoint."""

WAITING = 256
"""Most commands that wait to be obeyed; more are dropped."""


class SessionRunner:
    """Runs a session for its viewers."""

    def __init__(
        self, session: Session, hub: Hub, run_dir: Path, recordings: Path, device: str, opened: Path | None = None
    ) -> None:
        """`opened`: a recording from elsewhere, the first of what can be replayed."""
        self.session, self._hub = session, hub
        self._run_dir, self._recordings, self._device, self._opened = run_dir, recordings, device, opened
        hub.let_go = lambda: self.submit("hold", "")
        self._waiting: queue.Queue[tuple[str, list[Any]]] = queue.Queue(WAITING)
        self._stopping = threading.Event()
        self._recorder: Recorder | None = None
        self._writers: list[threading.Thread] = []
        self._newest = session.agent.trained.epoch
        self._looked = time.monotonic()
        self.files: dict[str, Path] = {}
        """What was written, by name: all that may be fetched."""
        self._do: dict[str, Callable[..., None]] = {
            "mode": session.set_mode, "hold": self._hold, "act": session.act, "pause": session.pause,
            "step": session.step, "rewind": session.rewind, "speed": session.set_fps, "reset": session.reset,
            "new": session.new, "futures": session.show_futures, "choose": session.choose,
            "open": session.open_episode, "seek": session.seek,
            "record": self._record, "picture": self._picture, "reload": self._reload, "written": self._written,
        }  # fmt: skip

    def submit(self, command: str, *arguments: Any) -> None:
        """Do this next; from any thread. Dropped when too much waits."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait((command, list(arguments)))

    def stop(self) -> None:
        """End `run`, from any thread."""
        self._stopping.set()

    def run(self, call: Callable[..., object]) -> None:
        """Play until stopped; then write what is being recorded. `call(function, *arguments)` runs a function of the
        hub on its own loop."""
        self._call = call
        self._set_up()
        self._show()
        due = last = time.monotonic()
        while not self._stopping.is_set():
            commands = self._commands(0.25 if self._idle() else min(0.25, due - time.monotonic()))
            for command, arguments in commands:
                if self._stopping.is_set():  # 256 steps may wait
                    break
                self._attempt(self._do[command], *arguments)
            names = {command for command, _ in commands}
            if "hold" in names:  # seen in the next step, which comes up to half its time earlier
                due = min(due, last + 0.5 / self.session.fps)
            now = time.monotonic()
            if stepping := now >= due and not self._idle():
                # Late: the next step is a whole period away, rather than several at once.
                due, last = max(due + 1 / self.session.fps, now), now
                self._attempt(self.session.advance)
            if stepping or names - {"hold"} or (names and self.session.paused):
                self._show()
            self._look_for_checkpoint()
        self._attempt(self._record, False)
        for writer in self._writers:
            writer.join()
        self.session.close()

    def _idle(self) -> bool:
        return self.session.paused or not self._hub.viewers

    def _commands(self, timeout: float) -> list[tuple[str, list[Any]]]:
        """The commands that have come in, waiting for the first of them up to `timeout` seconds."""
        commands = []
        with contextlib.suppress(queue.Empty):
            if timeout > 0:
                commands.append(self._waiting.get(timeout=timeout))
            while True:
                commands.append(self._waiting.get_nowait())
        return commands

    def _attempt(self, what: Callable[..., object], *arguments: Any) -> None:
        """Do something and record the step that it was, if any; what is refused is said to everybody."""
        try:
            what(*arguments)
            row, self.session.row = self.session.row, None
            if self._recorder is not None and row is not None:
                self._recorder.add(row, picture(self.session.view()))
                if self._recorder.full:
                    self._tell("the recording is full and was ended")
                    self._record(False)
        except (TokendreamError, OSError) as error:
            self._tell(one_line(error))

    def _tell(self, line: str, file: str = "") -> None:
        self._call(self._hub.tell, line, file)

    def _show(self) -> None:
        recorded = None if self._recorder is None else len(self._recorder)
        self._call(self._hub.publish, pack(self.session.view(), recording=recorded, newest=self._newest))

    def _hold(self, buttons: str) -> None:
        self.session.hold([button for button in buttons.split("\t") if button])

    def _picture(self) -> None:
        path = self._recordings / f"{self._stamp()}.png"
        media.write_png(path, media.enlarge(picture(self.session.view()), 4))
        self._wrote(path)

    def _record(self, on: bool) -> None:
        if on and self._recorder is None:
            self._recorder = Recorder(self.session.agent.trained.spaces)
        elif not on and self._recorder is not None:
            recorder, self._recorder = self._recorder, None
            writer = threading.Thread(target=self._write, args=(recorder, self._stamp(), self.session.fps))
            self._writers = [w for w in self._writers if w.is_alive()] + [writer]
            writer.start()

    def _write(self, recorder: Recorder, name: str, fps: int) -> None:
        """In a thread of its own: a film of minutes takes seconds to encode."""
        try:
            file, film = recorder.save(self._recordings, name, fps)
        except (TokendreamError, OSError) as error:
            self._tell(one_line(error))
            return
        self._wrote(film)
        self._wrote(file)
        self.submit("written", file)

    def _wrote(self, path: Path) -> None:
        self.files[path.name] = path
        self._tell(f"wrote {path}", path.name)

    def _written(self, file: Path) -> None:
        """A recording is on the disk, and can be replayed."""
        self.session.episodes += library.open_recording(file, self.session.agent.trained)
        self._set_up()

    def _stamp(self) -> str:
        """A free name for a file of now."""
        name = time.strftime("play-%Y%m%d-%H%M%S")
        taken = {path.stem for path in self._recordings.glob(f"{name}*")}
        return next(n for n in (name, *(f"{name}-{i}" for i in range(2, 1000))) if n not in taken)

    def _look_for_checkpoint(self) -> None:
        if time.monotonic() - self._looked < LOOK_AGAIN:
            return
        self._looked = time.monotonic()
        newest = max(Checkpoints(self._run_dir).epochs(), default=0)
        if newest > max(self._newest, self.session.agent.trained.epoch):
            self._tell(f"there is a checkpoint of epoch {newest}: reload to play it")
        self._newest = newest

    def _reload(self) -> None:
        trained = Trained.load(self._run_dir, self._device)
        opened = library.open_recording(self._opened, trained) if self._opened else []
        known = library.episodes(self._run_dir, self._recordings, trained, self._tell)
        self.session.reload(trained, [*opened, *known])
        self._newest = trained.epoch
        self._set_up()
        self._tell(f"playing the checkpoint of epoch {trained.epoch}")

    def _set_up(self) -> None:
        session, trained = self.session, self.session.agent.trained
        facts = {
            "env": trained.config.env_name,
            "run": name_of(self._run_dir),
            "device": describe(trained.compute),
            "facts": facts_line(trained.facts),
            "grid": (trained.agent.block.grid or (0, 0))[0],
            "codes": trained.agent.block.vocabulary,
            "palette": session.agent.palette(),
            "book": _book(trained),
            "actions": session.buttons.layout.names,
            "keys": session.buttons.layout.keys,
            "speeds": SPEEDS,
            "episodes": [episode.title for episode in session.episodes],
        }
        self._call(self._hub.set_up, facts)


def _book(trained: Trained) -> str | None:
    """What every code is drawn as, as the source of a picture; None where they are not of one image."""
    codes = pictures.codes(trained.agent, trained.compute)
    return None if codes is None else png_url(media.sheet(codes, min(ACROSS, len(codes))))
