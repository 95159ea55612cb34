"""A run from its folder's first file to its report: where training, evaluation, logs and checkpoints are wired up.

What happens inside an epoch is the trainer's business; here is what happens around epochs. A run folder belongs to
one process at a time, and whatever stops a run between two updates (Ctrl-C, SIGTERM, a time limit) saves it there.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from tokendream import ranks
from tokendream.agent.agent import Agent
from tokendream.agent.collect import Difference
from tokendream.config.config import Config
from tokendream.config.limits import LONG
from tokendream.config.schedule import ScheduledPhase
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute, free_here, is_out_of_memory, keep_freed_memory
from tokendream.envs.pause import Pausable
from tokendream.envs.registry import make
from tokendream.envs.vector import EnvError, Envs
from tokendream.errors import NonFiniteError, OutOfMemory, TokendreamError, once, one_line, require
from tokendream.kernels.install import describe
from tokendream.kernels.machine import CROWDED, busy, compute_for
from tokendream.reports.display import Display, display_for
from tokendream.runfolder import files, lock, wandb_log
from tokendream.runfolder import folder as runfolder
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.load import check_actions, read_config
from tokendream.runfolder.metrics import RunLog
from tokendream.runfolder.names import shown
from tokendream.runfolder.wandb_log import WandbLog
from tokendream.spaces.observations import Spaces
from tokendream.stop import EXIT_CODES, Stopped, StopRequest
from tokendream.training import follow, timing
from tokendream.training.plan import plan
from tokendream.training.results import RunResults
from tokendream.training.trainer import Trainer


def start(config: Config, run_dir: Path | None = None, *, time_limit: float | None = None) -> int:
    """Train from scratch in a new folder. Returns the exit code. Raises ConfigError if the folder is in use."""
    stop = StopRequest(time_limit)
    with stop.listening():
        run_dir = (run_dir or runfolder.free_name(config)).absolute()  # an environment may change the working folder
        runfolder.check_free(run_dir)
        if config.log == "wandb":
            wandb_log.load()
        follow.check(config)
        with contextlib.closing(_envs(config)) as envs:
            # What cannot be, a misspelt game above all, leaves no folder.
            agent = Agent.from_config(config, envs.spaces)
        if agent.block.K1 > LONG:
            once(f"a step has {agent.block.K1} tokens, which is slow: fewer parts (--env.keys), a coarser image "
                 "(--env.size) or map (--tokenizer.map-cells)")  # fmt: skip
        compute = follow.for_ranks(compute_for(config, threads=True))
        _check_replay(config, envs.spaces, compute)
        files.replace_text(run_dir / "config.json", config.to_json())  # from here on it can be resumed
        return Run(config, run_dir, compute).go(stop)


def resume(run_dir: Path, *, time_limit: float | None = None) -> int:
    """Go on with a run from its last checkpoint, or from its beginning if it was cut before the first."""
    stop = StopRequest(time_limit)
    with stop.listening():
        run_dir = run_dir.absolute()
        config = read_config(run_dir)
        follow.check(config)
        compute = follow.for_ranks(compute_for(config, facts=runfolder.read_facts(run_dir), threads=True))
        return Run(config, run_dir, compute).go(stop)


def _check_replay(config: Config, spaces: Spaces, compute: Compute) -> None:
    """Raise ConfigError where the steps that a run keeps are more than a CPU has memory for; a GPU fails at once."""
    row, capacity, free = math.prod(spaces.observation.frame_shape), config.collect.capacity, free_here()
    fits = compute.device.type != "cpu" or free < 0 or row * config.kept_steps <= free
    require(fits, "collect.capacity", f"at most {free // row}, as {free / 2**30:.1f} GiB of memory are free", capacity)


UNSAVED = 15 * 60.0
"""Seconds after which a checkpoint is due whether or not an epoch has ended: no more is lost to a power cut."""


class RunError(TokendreamError):
    """A fault that ended a run; the message says what is saved and how to go on."""


class Run:
    """A run folder being trained in."""

    def __init__(self, config: Config, run_dir: Path, compute: Compute) -> None:
        self.config, self.run_dir, self.compute = config, run_dir, compute
        self._store, self._saved_at = Checkpoints(run_dir), time.monotonic()

    def go(self, stop: StopRequest) -> int:
        """Train to the end, or until stopped, from the last checkpoint if there is one; returns the exit code.

        Raises RunError for a fault that ended it, with what is saved and how to go on; ConfigError or
        CheckpointError before anything was done.
        """
        keep_freed_memory()
        with contextlib.ExitStack() as stack:
            stack.enter_context(lock.hold(self.run_dir, f"another process is training in {shown(self.run_dir)}"))
            if not (saved := self._store.epochs()):
                runfolder.check_none_lost(self.run_dir, self.config.checkpoint_every)
            said = []
            if runfolder.write_facts(self.run_dir, self.compute) and not saved:
                said = ["no checkpoint yet: from the beginning"]
            begun = False
            try:
                self._begin(stack, stop, said)
                begun = True
                return self._go(stop)
            except Exception as error:
                if begun and (explained := self._explained(error)):
                    raise explained from error
                if not isinstance(error, TokendreamError | OSError):
                    error.add_note(f"A bug in tokendream: {self._saved()}")
                raise

    def _begin(self, stack: contextlib.ExitStack, stop: StopRequest, said: list[str]) -> None:
        """Build all that trains, and put it where the last checkpoint was."""
        try:
            envs = Pausable(lambda: _envs(self.config))
            stack.callback(envs.close)
            costs = self._costs(envs.spaces, stop)
            said = [plan(self.config, costs), *said]
            torch.manual_seed(self.config.seed)
            self._agent = Agent.from_config(self.config, envs.spaces)
            self._replay = ReplayBuffer.of(envs.spaces, self.config.collect.capacity, self.compute.device, envs.n)
            self._trainer = Trainer(self.config, self._agent, envs, self._replay, self.compute)
            if resumed := bool(self._store.epochs()):
                epoch, snapshot = self._store.load()
                check_actions(self.config, envs.spaces.actions, snapshot.tensors.get("agent", {}))
                self._store.load_replay(epoch, self._replay)
                said = _resumed(runfolder.moved(self.run_dir, self.compute), self._trainer.restore(snapshot))
                runfolder.note_resumed(self.run_dir, self.compute, self._trainer.epoch)
            follow.lead(self.run_dir, self.compute, self._trainer)
            other = WandbLog(self.run_dir, self.config) if self.config.log == "wandb" else None
            self._log = RunLog(self.run_dir, after_epoch=self._trainer.epoch - 1, other=other)
            stack.callback(self._log.close)
            self._display: Display = display_for(self.config, self._trainer.schedule)
            stack.callback(self._display.close)
            self._display.expect(costs)
            self._results = RunResults(
                self.config, self.run_dir, self.compute, self._agent, self._replay, envs, self._display, stop
            )
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemory(
                    f"no memory for a run of this config: lower collect.capacity ({self.config.collect.capacity}) in "
                    f"{self.run_dir / 'config.json'}, or the widths"
                ) from error
            raise
        if self.compute.device.type == "cpu" and torch.get_num_threads() > 1 and busy():
            said.append(CROWDED)
        for line in said:
            self._display.say(line)
        at = f" from epoch {self._trainer.epoch} of {self.config.epochs}"
        self._display.say(
            f"{'going on with' if resumed else 'training'} {self.config.env_name} (preset {self.config.preset}, "
            f"seed {self.config.seed}) on {describe(self.compute)}"
            f"{f', {ranks.count()} ranks' if ranks.count() > 1 else ''}, in {shown(self.run_dir)}"
            f"{at if resumed and not self._trainer.finished else ''}"
        )

    def _costs(self, spaces: Spaces, stop: StopRequest) -> dict[str, float]:
        """Seconds of an update by phase, timed in the first seconds, before a random number of the run is drawn.

        Not where several ranks share it, of which each does a part, nor where nothing is left to do.
        """
        if ranks.count() > 1 or runfolder.finished(self.run_dir):
            return {}
        try:
            return timing.guess(self.config, self.compute, spaces, lambda phase: stop.raise_if_set())
        except Stopped:
            return {}

    def _go(self, stop: StopRequest) -> int:
        try:
            if self._train(stop):
                runfolder.note_cost(self.run_dir, self._trainer.seconds, self._trainer.process_seconds)
                self._results.final()
                return 0
        except Stopped:
            pass
        self._save()
        reason = stop.reason or "SIGTERM"  # which came to another rank
        self._display.say(f"stopped ({reason}); {self._go_on}")
        return EXIT_CODES[reason]

    def _explained(self, error: Exception) -> RunError | None:
        """A fault with what is safe after it and the command that goes on from there; None for a bug of ours."""
        more = ""
        if isinstance(error, NonFiniteError) and error.batch:
            try:
                more = f"; the batch is in {runfolder.keep_batch(self.run_dir, error)}"
            except OSError as full:
                more = f"; the batch could not be kept: {one_line(full)}"
        elif is_out_of_memory(error):
            error = OutOfMemory(
                f"out of memory in the evaluation, the report or the checkpoint after epoch {self._trainer.epoch - 1}: "
                f"lower evaluation.episodes ({self.config.evaluation.episodes}) or collect.capacity "
                f"({self.config.collect.capacity})"
            )
        if isinstance(error, OutOfMemory):
            more = f" in {self.run_dir / 'config.json'}"
        if not isinstance(error, TokendreamError | OSError):
            return None
        return RunError(f"{error}{more}; {self._saved()}")

    def _saved(self) -> str:
        """What of the run is safe, and the command that goes on from there."""
        saved = self._store.epochs()
        state = "nothing was saved yet"
        if saved:  # epoch 0: a fault in the first evaluation
            state = f"epoch {saved[0]} and all before it are saved" if saved[0] else "what was done of epoch 1 is saved"
        return f"{state}; once the cause is mended, {self._go_on}"

    @property
    def _go_on(self) -> str:
        return f"go on with: {follow.going_on(self.run_dir)}"

    def _train(self, stop: StopRequest) -> bool:
        """All epochs that are left. Returns False if asked to stop."""
        trainer = self._trainer
        while not trainer.finished:
            epoch = trainer.epoch
            progress = functools.partial(self._after_update, epoch)
            with self._saved_after(EnvError):  # nothing of its step was done
                if not trainer.run_epoch(lambda: ranks.anyone(stop()), progress, lambda: stop.continued):
                    return False
            with self._saved_after(Exception):  # a fault in an evaluation costs no training
                figures = self._results.during(epoch)
            record = trainer.close_epoch() | figures
            self._log.append(record)
            self._display.epoch(record)
            if epoch % self.config.checkpoint_every == 0 or trainer.finished:
                self._save()
            if self._results.envs.closed:  # an evaluation had need of the only one
                with self._saved_after(EnvError):
                    for line in _resumed({}, trainer.play_open_game_again()):
                        self._display.say(line)
            self._results.report_if_due()
        return True

    @contextlib.contextmanager
    def _saved_after(self, fault: type[Exception]) -> Iterator[None]:
        """Save what is trained so far where this fault comes up, and let it go on its way."""
        try:
            yield
        except Stopped:  # is saved by whoever catches it
            raise
        except fault:
            self._save()
            raise

    def _after_update(self, epoch: int, phase: ScheduledPhase, done: int) -> None:
        self._display.update(epoch, phase, done)
        if time.monotonic() - self._saved_at > UNSAVED:
            self._save()

    def _save(self) -> None:
        self._store.save(self._trainer.epoch - 1, self._trainer.snapshot(), self._replay)
        self._saved_at = time.monotonic()


def _envs(config: Config) -> Envs:
    """The environments that experience comes from. Raises EnvError, where there can be only fewer at once too."""
    n = config.collect.envs
    try:
        return make(config, n, evaluation=False)
    except EnvError as error:
        if n > 1:
            make(config, 1, evaluation=False).close()  # raises where it is not their number
            raise EnvError(f"{n} of them cannot be made at once, one can: lower collect.envs ({error})") from error
        raise


def _resumed(moved: dict[str, tuple[str, str]], different: Difference | None) -> list[str]:
    """Why a run that goes on is no longer the one that was never cut, if so."""
    said = []
    if moved:
        changed = ", ".join(f"{what} {then!r}, now {now!r}" for what, (then, now) in moved.items())
        said.append(f"begun with {changed}: from here on no longer bit for bit the run that was never cut")
    if different:
        said.append(
            f"the open game came out differently when played again, first after {different.after} of its "
            f"{different.steps} steps ({different.what}): the environment does not obey its seed, or is another one "
            "than before; the steps stay as they were recorded, as an episode cut off there, and a new game begins: "
            "from here on no longer the run that was never cut"
        )
    return said
