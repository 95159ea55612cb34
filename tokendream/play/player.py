"""The thread in which the model runs: at its own pace, whoever watches and however slowly.

Controls come in through a bounded queue, pictures go out through `Viewers`. What a person can get wrong becomes
one line to everybody; a bug ends the thread, and with it the server.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tokendream.errors import one_line
from tokendream.kernels.install import describe
from tokendream.play import library, wire
from tokendream.play.recording import Recorder
from tokendream.play.session import Session
from tokendream.play.view import MODES, SPEEDS, picture
from tokendream.reports import media
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.load import Trained

LOOK_AGAIN = 5.0
"""Seconds between two looks for a newer checkpoint."""

WAITING = 256
"""Most controls that wait to be obeyed; more are dropped."""


@dataclass(frozen=True)
class _Written:
    """A recording is on the disk, and can be replayed."""

    path: Path


@runtime_checkable
class Viewers(Protocol):
    """Whoever watches; called from the model's thread."""

    def publish(self, picture: bytes) -> None:
        """A new picture, which replaces those not yet sent."""
        ...

    def tell(self, line: str, file: str = "") -> None:
        """One line for everybody, and the name of the file that it is about."""
        ...

    def set_up(self, facts: dict[str, Any]) -> None:
        """What stays the same from picture to picture, when it has changed."""
        ...

    def watching(self) -> bool:
        """Whether anybody is there; nothing runs for nobody."""
        ...


class Player:
    """Runs a session for its viewers."""

    def __init__(self, session: Session, viewers: Viewers, run_dir: Path, recordings: Path, device: str) -> None:
        self.session, self._viewers = session, viewers
        self._run_dir, self._recordings, self._device = run_dir, recordings, device
        self._controls: queue.Queue[Any] = queue.Queue(WAITING)
        self._stopping = threading.Event()
        self._recorder: Recorder | None = None
        self._writers: list[threading.Thread] = []
        self._newest = session.agent.trained.epoch
        self._looked = time.monotonic()
        self._rate = 0.0
        self.files: dict[str, Path] = {}
        """What was written, by name: all that may be fetched."""

    def submit(self, control: Any) -> None:
        """Do this next; from any thread. Dropped when too many wait."""
        try:
            self._controls.put_nowait(control)
        except queue.Full:
            return

    def stop(self) -> None:
        """End `run`, from any thread."""
        self._stopping.set()
        self.submit(None)

    def run(self) -> None:
        """Play until stopped; then write what is being recorded."""
        self._set_up()
        self._show()
        due = last = time.monotonic()
        while not self._stopping.is_set():
            idle = self.session.paused or not self._viewers.watching()
            if controls := self._waiting(0.25 if idle else max(0.0, due - time.monotonic())):
                for control in controls:
                    self._attempt(functools.partial(self._obey, control))
                buttons = [isinstance(control, wire.Hold) for control in controls]
                if any(buttons):  # seen in the next step, which comes up to half its time earlier
                    due = min(due, last + 0.5 / self.session.fps)
                if self.session.paused or not all(buttons):
                    self._attempt(self._show)
                continue
            self._look_for_checkpoint()
            now = time.monotonic()
            if idle or now < due:
                continue
            # Late: the next step is a whole period away, rather than several at once.
            due = max(due + 1 / self.session.fps, now)
            self._rate += 0.1 * (1 / max(now - last, 1e-3) - self._rate)
            last = now
            self._attempt(self._tick)
        if self._recorder is not None:
            self._attempt(lambda: self._record(False))
        for writer in self._writers:
            writer.join()
        self.session.close()

    def _waiting(self, timeout: float) -> list[Any]:
        """The controls that have come in, waiting for the first of them up to `timeout` seconds."""
        controls: list[Any] = []
        with contextlib.suppress(queue.Empty):
            if timeout > 0:
                controls.append(self._controls.get(timeout=timeout))
            while True:
                controls.append(self._controls.get_nowait())
        return [control for control in controls if control is not None]

    def _attempt(self, what: Callable[[], None]) -> None:
        try:
            what()
        except (ValueError, OSError) as error:
            self._viewers.tell(one_line(error))

    def _tick(self) -> None:
        self._show(self.session.tick)

    def _show(self, look: Callable[[], Any] | None = None) -> None:
        view = (look or self.session.view)()
        row, self.session.row = self.session.row, None
        recorder = self._recorder
        if recorder is not None and row is not None:
            recorder.add(row, picture(view))
            if recorder.full:
                self._viewers.tell("the recording is full and was ended")
                self._record(False)
        recorded = None if self._recorder is None else len(self._recorder)
        state = {"rate": round(self._rate, 1), "recording": recorded, "newest": self._newest}
        self._viewers.publish(wire.pack(view, **state))

    def _obey(self, control: Any) -> None:
        s = self.session
        match control:
            case wire.SetMode(mode):
                s.set_mode(mode)
            case wire.Hold(buttons):
                s.hold([b for b in buttons.split("\t") if b])
            case wire.Act(action):
                s.act(action)
            case wire.Pause(on):
                s.paused = on
            case wire.Step():
                s.paused = True
                s.advance()
            case wire.Rewind(steps):
                s.rewind(steps)
            case wire.Speed(fps):
                s.set_fps(fps)
            case wire.Reset():
                s.reset()
            case wire.New():
                s.new()
            case wire.Futures(on):
                s.show_futures(on)
            case wire.Choose(future):
                s.choose(future)
            case wire.Open(episode):
                s.open_episode(episode)
            case wire.Seek(frame):
                s.seek(frame)
            case wire.Record(on):
                self._record(on)
            case wire.Picture():
                name = f"{self._stamp()}.png"
                media.write_png(self._recordings / name, media.enlarge(picture(s.view()), 4))
                self._wrote(self._recordings / name)
            case wire.Reload():
                self._reload()
            case _Written(path):
                s.episodes += library.open_recording(path, s.agent.trained)
                self._set_up()
            case _:
                raise AssertionError(control)

    def _record(self, on: bool) -> None:
        if on == (self._recorder is not None):
            return
        if on:
            self._recorder = Recorder(self.session.agent.trained.action_names)
            return
        recorder, self._recorder = self._recorder, None
        assert recorder is not None
        name, fps = self._stamp(), self.session.fps
        writer = threading.Thread(target=self._attempt, args=(lambda: self._write(recorder, name, fps),))
        self._writers = [w for w in self._writers if w.is_alive()] + [writer]
        writer.start()

    def _write(self, recorder: Recorder, name: str, fps: int) -> None:
        """In a thread of its own: a film of minutes takes seconds to encode."""
        file, film = recorder.save(self._recordings, name, fps)
        self._wrote(film)
        self._wrote(file)
        self.submit(_Written(file))

    def _wrote(self, path: Path) -> None:
        self.files[path.name] = path
        self._viewers.tell(f"wrote {path}", path.name)

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
            self._viewers.tell(f"there is a checkpoint of epoch {newest}: reload to play it")
        self._newest = newest

    def _reload(self) -> None:
        trained = Trained.load(self._run_dir, self._device)
        self.session.reload(trained, episodes(self._run_dir, self._recordings, trained, self._viewers.tell))
        self._newest = trained.epoch
        self._set_up()
        self._viewers.tell(f"playing the checkpoint of epoch {trained.epoch}")

    def _set_up(self) -> None:
        session, trained = self.session, self.session.agent.trained
        self._viewers.set_up(
            {
                "env": trained.config.env_name,
                "run": self._run_dir.name,
                "device": describe(trained.compute),
                "size": trained.config.env.size,
                "grid": trained.config.grid,
                "codes": trained.config.tokenizer.codebook_size,
                "palette": session.agent.palette(),
                "actions": session.buttons.layout.describe(),
                "keys": {button: list(keys) for button, keys in session.buttons.layout.keys.items()},
                "modes": [{"name": mode.name, "title": mode.title, "who": mode.who} for mode in MODES.values()],
                "speeds": list(SPEEDS),
                "episodes": [{"title": e.title, "length": e.length} for e in session.episodes],
            }
        )


def episodes(run_dir: Path, recordings: Path, trained: Trained, tell: Callable[[str], None]) -> list[library.Episode]:
    """All that can be replayed: the run's own episodes, if it has kept any, and the recordings of its play."""
    found: list[library.Episode] = []
    try:
        found += library.from_training(run_dir, trained)
    except ValueError as error:
        tell(f"no episodes of the training run: {one_line(error)}")
    return found + library.scan(recordings, trained)
