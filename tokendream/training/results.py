"""What a run shows of itself: evaluations on the way and at the end, films, and the report, as they come due."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from tokendream.agent.agent import Agent
from tokendream.config.config import Config
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute, is_out_of_memory, peak_memory
from tokendream.envs.pause import Pausable
from tokendream.errors import TokendreamError, one_line
from tokendream.evaluation.evaluation import Evaluation, evaluate
from tokendream.evaluation.games import Game, Player, random_player
from tokendream.kernels.install import describe
from tokendream.reports import diagnose, pictures
from tokendream.reports.display import Display
from tokendream.reports.evaluate import write_films
from tokendream.reports.results import diagnosis
from tokendream.reports.run_page import write_codes, write_pictures, write_report
from tokendream.runfolder.folder import FINAL
from tokendream.runfolder.load import Trained, player
from tokendream.runfolder.metrics import Record
from tokendream.runfolder.names import quoted, shown
from tokendream.stop import StopRequest

REPORT_EVERY = 120.0
"""Seconds between two refreshes of the report while training."""

FIRST_REPORT = 45.0
"""Seconds until the first one: people want to look."""


@dataclass
class RunResults:
    """The results of a run in `run_dir`, whose training plays in `envs`. Raises Stopped out of an evaluation."""

    config: Config
    run_dir: Path
    compute: Compute
    agent: Agent
    replay: ReplayBuffer
    envs: Pausable
    display: Display
    stop: StopRequest
    _reported: float = field(default_factory=lambda: time.monotonic() - REPORT_EVERY + FIRST_REPORT)

    def during(self, epoch: int) -> Record:
        """The evaluation after an epoch, where one is due: its figures for the log."""
        every = self.config.evaluation.every
        if not every or epoch % every or epoch >= self.config.epochs:
            return {}
        result, _ = self._evaluate(self._policy(), self.config.evaluation.episodes_during, epoch)
        result.write(self.run_dir / "evaluation" / f"epoch-{epoch:06d}.json")
        low, high = result.interval
        return {"evaluation/mean": result.mean, "evaluation/low": low, "evaluation/high": high}

    def final(self) -> None:
        """The final evaluation beside a random player's, films, the report, and why the agent is not better."""
        path = self.run_dir / FINAL
        self.envs.close()  # training is over, and some emulators exist once a process
        if path.exists():
            self.display.say(f"nothing left to train or evaluate: {shown(path)} is there")
            self._diagnose()
            return
        self.report_if_due()
        episodes, epochs = self.config.evaluation.episodes, self.config.epochs
        uniform = random_player(self.agent.actor_critic.actions.random, np.random.default_rng(self.config.seed))
        random, _ = self._evaluate(uniform, episodes, epochs, player="random")
        random.write(path.with_name("random.json"))
        self.display.say(f"random {random.describe()}")
        result, games = self._evaluate(self._policy(), episodes, epochs)
        self.display.say(f"agent  {result.describe()}")
        write_films(self.config, result, games, self.run_dir / "films", self.display.say,
                    again=f"tokendream eval {quoted(self.run_dir)}")  # fmt: skip
        result.write(path)
        self.report()
        self._diagnose()
        self.display.say(f"peak memory of this process: {peak_memory() / 2**30:.2f} GiB")
        if (page := self.run_dir / "report.html").is_file():
            self.display.say(f"report: {shown(page)}")

    def _diagnose(self) -> None:
        """Say why the agent is not better, here and in the report, unless that is known; not after fewer steps than
        the diagnosis plays, which is no training but a trial. A fault in it is said, and costs the run nothing."""
        config, steps = self.config, diagnose.STEPS
        trained = Trained(config, self.agent, self.compute, config.epochs, self.envs.spaces)

        def progress(done: int) -> None:
            self.display.games("diagnosis", done, steps)
            self.stop.raise_if_set()

        try:
            if self.replay.total < steps or diagnosis(self.run_dir).get("epoch") == config.epochs:
                return
            found = diagnose.examine(trained, self.run_dir, steps=steps, progress=progress)
            for line in found.said:
                self.display.say(line)
            self.display.say(f"diagnosis: {shown(found.write(self.run_dir))}")
        except Exception as error:
            if not (isinstance(error, TokendreamError | OSError) or is_out_of_memory(error)):
                raise
            self.display.say(f"no diagnosis: {one_line(error)}")

    def report_if_due(self) -> None:
        """Refresh the report where the last one is old."""
        if time.monotonic() - self._reported > REPORT_EVERY:
            self.report()

    def report(self) -> None:
        """Refresh the report; what it could not show this time it may show the next."""
        drawn = pictures.draw(self.agent, self.replay, self.config, self.compute, length=pictures.LENGTH)
        try:
            if (codes := pictures.codes(self.agent, self.compute)) is not None:
                write_codes(self.run_dir, codes)
            if drawn is not None:
                write_pictures(self.run_dir, *drawn)
        except OSError as error:
            self.display.say(f"the report has no new film of a dream: {one_line(error)}")
        try:
            write_report(self.run_dir)
        except OSError as error:
            self.display.say(f"the report was not refreshed: {one_line(error)}")
        self._reported = time.monotonic()

    def _policy(self) -> Player:
        """The agent with the games' own seed, so that `tokendream eval` plays the same games again."""
        temperature, seed = self.config.evaluation.temperature, self.config.seed
        return player(self.agent, self.compute, seed=seed, temperature=temperature)

    def _evaluate(
        self, policy: Player, episodes: int, epoch: int, *, player: str = "agent"
    ) -> tuple[Evaluation, list[Game]]:
        return evaluate(
            self.config,
            self._asking(policy),
            episodes,
            self.config.seed,
            make_room=self.envs.close,
            temperature=self.config.evaluation.temperature if player == "agent" else None,
            progress=partial(self.display.games, f"games of the {player if player == 'agent' else 'random player'}"),
            epoch=epoch,
            env_steps=self.replay.total,
            player=player,
            device=describe(self.compute),
        )

    def _asking(self, policy: Player) -> Player:
        """The same policy, which leaves the game by an exception when the run is asked to stop."""

        def act(frame: np.ndarray, first: np.ndarray) -> np.ndarray:
            self.stop.raise_if_set()
            return policy(frame, first)

        return act
