"""A run from its folder's first file to its report: where training, evaluation, logs and checkpoints are wired up.

What happens inside an epoch is the trainer's business; here is what happens around epochs. A run folder belongs to
one process at a time, and whatever stops a run between two updates (Ctrl-C, SIGTERM, a time limit) saves it there.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import numpy as np
import torch

from tokendream.agent.agent import Agent, AgentPolicy
from tokendream.agent.collect import Difference
from tokendream.config.config import Config
from tokendream.config.presets import DURATIONS
from tokendream.config.schedule import PARTS
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute, is_out_of_memory, keep_freed_memory
from tokendream.envs.registry import make
from tokendream.errors import NonFiniteError, OutOfMemory, TokendreamError, one_line
from tokendream.evaluation.evaluation import Evaluation, evaluate
from tokendream.evaluation.games import Game, Policy, random_policy
from tokendream.reports import pictures
from tokendream.reports.display import Display, display_for, peak_memory
from tokendream.reports.evaluate import write_films
from tokendream.reports.run_page import write_pictures, write_report
from tokendream.runfolder import folder as runfolder
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.load import read_config
from tokendream.runfolder.metrics import Record, RunLog
from tokendream.stop import EXIT_CODES, Stopped, StopRequest
from tokendream.training.trainer import Trainer

REPORT_EVERY = 120.0
"""Seconds between two refreshes of the report while training."""


def start(config: Config, run_dir: Path | None = None, *, time_limit: float | None = None) -> int:
    """Train from scratch in a new folder. Returns the exit code. Raises ConfigError if the folder is in use."""
    stop = StopRequest(time_limit)
    with stop.listening():
        if run_dir is None:
            run_dir = runfolder.free_name(config)
        runfolder.check_free(run_dir)
        make(config, 1, evaluation=False).close()  # a misspelt game must not leave a folder behind
        compute = Compute.of(config)
        runfolder.begin(run_dir, config, compute)
        return Run(config, run_dir, compute).go(stop, resumed=False)


def resume(run_dir: Path, *, time_limit: float | None = None) -> int:
    """Go on with a run from its last checkpoint, or from its beginning if it was cut before the first."""
    stop = StopRequest(time_limit)
    with stop.listening():
        config = read_config(run_dir)
        compute = Compute.of(config)
        return Run(config, run_dir, compute).go(stop, resumed=bool(Checkpoints(run_dir).epochs()))


class RunError(TokendreamError):
    """A fault that ended a run; the message says what is saved and how to go on."""


class Run:
    """A run folder being trained in."""

    def __init__(self, config: Config, run_dir: Path, compute: Compute) -> None:
        self.config, self.run_dir, self.compute = config, run_dir, compute
        self._store = Checkpoints(run_dir)
        self._reported = time.monotonic() - REPORT_EVERY + 45  # the first report after 45 s: people want to look

    def go(self, stop: StopRequest, *, resumed: bool) -> int:
        """Train to the end, or until stopped; returns the exit code.

        Raises RunError for a fault that ended it, with what is saved and how to go on; ConfigError or
        CheckpointError before anything was done.
        """
        keep_freed_memory()
        with runfolder.locked(self.run_dir), contextlib.ExitStack() as stack:
            runfolder.write_facts(self.run_dir, self.compute)
            self._begin(stack, resumed=resumed)
            try:
                return self._go(stop)
            except Exception as error:
                if explained := self._explained(error):
                    raise explained from error
                error.add_note(f"A bug in tokendream: {self._saved()}")
                raise

    def _begin(self, stack: contextlib.ExitStack, *, resumed: bool) -> None:
        """Build all that trains, and put it where the last checkpoint was."""
        said = [_plan(self.config)]
        try:
            envs = make(self.config, 1, evaluation=False)
            stack.callback(envs.close)
            torch.manual_seed(self.config.seed)
            self._agent = Agent.from_config(self.config, envs.n_actions)
            size = self.config.env.size
            self._replay = ReplayBuffer(self.config.collect.capacity, (3, size, size), self.compute.device)
            self._trainer = Trainer(self.config, self._agent, envs, self._replay, self.compute)
            if resumed:
                epoch, snapshot = self._store.load()
                self._store.load_replay(epoch, self._replay)
                said = _resumed(runfolder.moved(self.run_dir, self.compute), self._trainer.restore(snapshot))
            self._log = RunLog(self.run_dir, after_epoch=self._trainer.epoch - 1)
            stack.callback(self._log.close)
            self._display: Display = display_for(self.config, self._trainer.phases)
            stack.callback(self._display.close)
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemory(
                    f"no memory for a run of this config: lower collect.capacity ({self.config.collect.capacity}) in "
                    f"{self.run_dir / 'config.json'}, or the widths"
                ) from error
            raise
        for line in said:
            self._display.say(line)
        self._display.say(
            f"{'going on with' if resumed else 'training'} {self.config.env_name} (preset {self.config.preset}, "
            f"seed {self.config.seed}) on {self.compute.describe()}, in {self.run_dir}"
        )

    def _go(self, stop: StopRequest) -> int:
        try:
            finished = self._train(stop) and self._finish(stop)
        except Stopped:
            finished = False
        if not finished:
            self._save()
            self._display.say(f"stopped ({stop.reason}); go on with: tokendream train --resume {self.run_dir}")
            return EXIT_CODES[stop.reason or "time limit"]
        return 0

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
        state = f"epoch {saved[0]} and all before it are saved" if saved else "nothing was saved yet"
        return f"{state}; once the cause is mended, go on with: tokendream train --resume {self.run_dir}"

    def _train(self, stop: StopRequest) -> bool:
        """All epochs that are left. Returns False if asked to stop."""
        trainer, every = self._trainer, self.config.evaluation.every
        while not trainer.finished:
            epoch = trainer.epoch
            if not trainer.run_epoch(stop, lambda phase, done, e=epoch: self._display.update(e, phase, done)):  # type: ignore[misc]
                return False
            figures: Record = {}
            if every and epoch % every == 0 and epoch < self.config.epochs:
                result, _ = self._evaluate(self._policy(stop), self.config.evaluation.episodes_during, epoch)
                result.write(self.run_dir / "evaluation" / f"epoch-{epoch:06d}.json")
                low, high = result.interval
                figures = {"evaluation/mean": result.mean, "evaluation/low": low, "evaluation/high": high}
            record = trainer.close_epoch() | figures
            self._log.append(record)
            self._display.epoch(record)
            if epoch % self.config.checkpoint_every == 0 or trainer.finished:
                self._save()
            if time.monotonic() - self._reported > REPORT_EVERY:
                self._report()
        return True

    def _finish(self, stop: StopRequest) -> bool:
        """The final evaluation beside a random player's, films, and the report."""
        final = self.run_dir / "evaluation" / "final.json"
        if final.exists():
            self._display.say(f"nothing left to train or evaluate: {final} is there")
            return True
        self._report()
        episodes, epochs = self.config.evaluation.episodes, self.config.epochs
        chance, _ = self._evaluate(_asking(stop, self._random()), episodes, epochs, player="random")
        chance.write(final.with_name("random.json"))
        result, games = self._evaluate(self._policy(stop), episodes, epochs)
        self._display.say(f"random {chance.describe()}")
        self._display.say(f"agent  {result.describe()}")
        write_films(self.config, result, games, self.run_dir, self._display.say)
        result.write(final)
        self._report()
        self._display.say(f"peak memory of this process: {peak_memory() / 2**30:.2f} GiB")
        if (page := self.run_dir / "report.html").is_file():
            self._display.say(f"report: {page}")
        return True

    def _policy(self, stop: StopRequest) -> Policy:
        """The agent with the games' own seed, so that `tokendream eval` plays the same games again."""
        temperature, seed = self.config.evaluation.temperature, self.config.seed
        return _asking(stop, AgentPolicy(self._agent, self.compute, temperature=temperature, seed=seed))

    def _random(self) -> Policy:
        return random_policy(self._agent.actor_critic.actions.random, np.random.default_rng(self.config.seed))

    def _evaluate(
        self, policy: Policy, episodes: int, epoch: int, *, player: str = "agent"
    ) -> tuple[Evaluation, list[Game]]:
        return evaluate(
            self.config,
            policy,
            episodes,
            self.config.seed,
            temperature=self.config.evaluation.temperature if player == "agent" else None,
            progress=lambda done, total: self._display.games("evaluation", done, total),
            epoch=epoch,
            env_steps=self._replay.total,
            player=player,
            device=self.compute.describe(),
        )

    def _save(self) -> None:
        self._store.save(self._trainer.epoch - 1, self._trainer.snapshot(), self._replay)

    def _report(self) -> None:
        """Refresh the report; what it could not show this time it may show the next."""
        drawn = pictures.draw(self._agent, self._replay, self.config, self.compute)
        try:
            if drawn is not None:
                write_pictures(self.run_dir, *drawn)
        except OSError as error:
            self._display.say(f"the report has no new film of a dream: {one_line(error)}")
        try:
            write_report(self.run_dir)
        except OSError as error:
            self._display.say(f"the report was not refreshed: {one_line(error)}")
        self._reported = time.monotonic()


def _asking(stop: StopRequest, policy: Policy) -> Policy:
    """The same policy, which leaves the game by an exception when the run is asked to stop."""

    def act(frame: np.ndarray, first: np.ndarray) -> np.ndarray:
        stop.raise_if_set()
        return policy(frame, first)

    return act


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


def _plan(config: Config) -> str:
    """What a run is going to do and how long that takes, as far as it is known before it starts."""
    collected = config.collect.steps * min(config.epochs, config.collect.last_epoch)
    phases = ", ".join(
        f"{name.replace('_', ' ')} {phase.updates} x {phase.batch} from epoch {phase.first_epoch}"
        for name in PARTS
        for phase in [getattr(config.training, name)]
    )
    known = DURATIONS.get(config.preset, "The time left is shown as the phases are timed.")
    return (
        f"plan: {_count(config.epochs, 'epoch')}, {_count(collected, 'env step')}; updates an epoch: {phases}; then "
        f"{_count(config.evaluation.episodes, 'game')} of evaluation and a report, refreshed on the way. {known}"
    )


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
