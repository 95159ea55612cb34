"""What is being played, without a network: modes, controls, and one step of whatever is on.

The real game is a dream whose frame is corrected after every step: `imagine.step` gives M's prediction and both
memories, and then the true frame's tokens take the place of the predicted ones. So every mode runs through the same
step as training's dreams, once or, side by side, twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from tokendream.dream.imagine import Dream
from tokendream.errors import nearest
from tokendream.play.keys import HeldButtons, JointLayout, layout_of
from tokendream.play.library import Episode
from tokendream.play.playing_agent import FUTURES, Futures, PlayingAgent, ids
from tokendream.play.recording import RecordedStep
from tokendream.play.view import MODES, SPEEDS, LastStep, PlayError, SessionState, View, trace
from tokendream.play.worlds import RealGame, RecordedEpisode
from tokendream.runfolder.load import Trained

HISTORY = 256
"""Steps that can be undone: 13 MB of M's memories for preset cpu, 84 MB for rem."""

TRAIL = 32
"""Steps before a moment that are drawn with it, where features are drawn as lines."""


class Session:
    """A game, a dream, and the controls. Not for several threads at once. What cannot be done now raises PlayError."""

    def __init__(
        self, trained: Trained, episodes: Sequence[Episode], *, seed: int = 0, temperature: float | None = None
    ) -> None:
        temperature = temperature or trained.config.evaluation.temperature
        self.agent = PlayingAgent(trained, seed=seed, temperature=temperature)
        self.episodes, self._seed = list(episodes), seed
        self.buttons = HeldButtons(layout_of(trained.spaces))
        self.mode = MODES["agent-game"]
        self.paused, self.fps = False, 15
        self.row: RecordedStep | None = None
        """The last step taken, for a recording; whoever has kept it sets it to None."""
        self._game = RealGame(trained.config, seed)
        self._recorded: RecordedEpisode | None = None
        self._episode = 0
        self._left: SessionState | None = None  # the game's moment while it is not on
        self._futures: Futures | None = None
        self._past: deque[SessionState] = deque(maxlen=HISTORY)
        self._begin(self.agent.fresh(self._game.frame))

    def set_mode(self, name: str) -> None:
        """Another mode. The game and the dream go on from where they are; a new dream begins at what is shown."""
        if name not in MODES:
            raise PlayError(f"unknown mode {name!r}; nearest: {nearest(name, MODES)}")
        before, mode = self.mode, MODES[name]
        if mode.truth == "recording" and not self.episodes:
            raise PlayError("there is no recorded episode: the run has none yet, and nothing was recorded")
        self._futures = None
        self.buttons.clear()
        self.mode = mode
        if (mode.truth, mode.free) == (before.truth, before.free):
            return
        if before.truth == "game" and mode.truth != "game":
            self._left = self.now
        if mode.truth == "recording" and self._recorded is None:
            self._open(self._episode)
            return
        now = self.now
        if mode.truth == "game" and before.truth != "game":
            assert self._left is not None
            now, self._recorded = self._left, None
        if mode.truth is not None:
            score, step = (now.score, now.step) if (r := self._recorded) is None else (r.score, r.at)
            self._begin(now.seen, now.seen if mode.free else None, score, step)
        else:
            self._begin(now.seen, now.dream if before.free else now.seen)

    def hold(self, buttons: Sequence[str]) -> None:
        """The buttons held now, in the order in which they were pressed; a tap between two steps counts too.

        While paused, a press is a step.
        """
        if self.buttons.hold(buttons) and self.paused and self.mode.who == "person":
            self.advance()

    def act(self, action: int) -> None:
        """What if? Take this action, whoever plays: at once while paused, else in the next step. Among futures, draw
        them again, all with this first action."""
        if isinstance(self.buttons.layout, JointLayout):
            raise PlayError("an action has several components here: hold their keys")
        if not 0 <= action < len(self.buttons.layout.names):
            raise PlayError(f"an action must lie in 0..{len(self.buttons.layout.names) - 1}, not {action}")
        if self._futures is not None:
            self.show_futures(True, action)
        elif self.mode.who == "recording":
            raise PlayError("a replay takes its own actions: start a dream from here first")
        else:
            self.buttons.asked = action
            if self.paused:
                self.advance()

    def pause(self, on: bool) -> None:
        """Stop or go on."""
        self.paused = on

    def step(self) -> None:
        """One step, and pause."""
        self.paused = True
        self.advance()

    def set_fps(self, fps: int) -> None:
        """Steps a second, one of SPEEDS."""
        if fps not in SPEEDS:
            raise PlayError(f"a speed must be one of {', '.join(map(str, SPEEDS))}, not {fps}")
        self.fps = fps

    def rewind(self, steps: int) -> None:
        """Undo up to that many steps, and pause."""
        steps = min(steps, len(self._past))
        if steps < 1:
            raise PlayError("there is nothing to rewind")
        if self.mode.truth is not None:
            self._world.rewind(steps)
        for _ in range(steps):
            self.now = self._past.pop()
        self.paused, self._futures, self._cut = True, None, True

    def reset(self) -> None:
        """Back to where this began: the dream to its first moment, the replay to its first frame; side by side the
        dream begins again at what is shown, and the game alone is a new one."""
        if self.mode.truth is None:
            self._begin(self._start.seen, self._start.dream)
        elif self.mode.truth == "recording":
            self.seek(0)
        elif self.mode.free:
            self._begin(self.now.seen, self.now.seen, self.now.score, self.now.step)
        else:
            self.new()

    def new(self) -> None:
        """A new game, and in a dream a dream of it; in a replay the next episode."""
        if self.mode.truth == "recording":
            self.open_episode((self._episode + 1) % len(self.episodes))
            return
        self._game.begin()
        seen, self._recorded = self.agent.fresh(self._game.frame), None
        self._begin(seen, seen if self.mode.free else None)
        self._left = self.now

    def open_episode(self, number: int) -> None:
        """Replay the recorded episode of this number from its first frame."""
        if not 0 <= number < len(self.episodes):
            raise PlayError(f"there are {len(self.episodes)} recorded episodes, none of number {number}")
        self._episode = number
        if self.mode.truth == "recording" or self._recorded is not None:
            self._open(number)
        if self.mode.truth != "recording":
            self.set_mode("replay")

    def seek(self, frame: int) -> None:
        """Go to a frame of the replay, with both memories warm as training's dreams begin."""
        if self._recorded is None or self.mode.truth != "recording":
            raise PlayError("only a replay has other moments to go to")
        self._recorded.at = min(max(0, frame), self._recorded.episode.length - 1)
        seen = self.agent.warm(*self._recorded.before(self.agent.trained.config.dream.burn_in))
        self._begin(seen, seen if self.mode.free else None, self._recorded.score, self._recorded.at)

    def show_futures(self, on: bool, first: int | None = None) -> None:
        """Dream FUTURES futures of what is shown, each with actions of the agent's choice; or no longer."""
        self._futures = Futures(self.agent, self._lead(self.now.seen, self.now.dream), first) if on else None

    def choose(self, future: int) -> None:
        """Go on in one of the futures shown, as a dream."""
        if self._futures is None or not 0 <= future < FUTURES:
            raise PlayError(f"there is no future {future} to go on in")
        dream = self._futures.dreams.take(torch.tensor([future]))
        self.set_mode("person-dream" if self.mode.who == "person" else "agent-dream")
        self._begin(self.now.seen, dream)

    def reload(self, trained: Trained, episodes: Sequence[Episode]) -> None:
        """Go on with another checkpoint, in a new game: the old weights' memories mean nothing to the new ones."""
        self.agent = PlayingAgent(trained, seed=self._seed, temperature=self.agent.temperature)
        self.episodes, self._episode = list(episodes), 0
        if self.mode.truth == "recording":
            self.mode = MODES["agent-game"]
        self.new()

    def close(self) -> None:
        """Free the environment."""
        self._game.close()

    def advance(self) -> None:
        """One step, paused or not. The step after an end begins again: the dream where it began, or a new game."""
        last = self.now.last_step
        over = self._game.over if self.mode.truth == "game" else last is not None and last.over
        if self._futures is not None:
            self._futures.step()
        elif self._recorded is not None and self.mode.who == "recording" and self._recorded.action is None:
            self.paused = True
            raise PlayError("the episode ends here")
        elif over:
            (self.reset if self.mode.truth is None else self.new)()
        else:
            self._step()

    def _step(self) -> None:
        now, agent, lead = self.now, self.agent, self._lead(self.now.seen, self.now.dream)
        before = self._world.frame if self.mode.truth else agent.decode(lead.tokens)[0]
        replayed = self._recorded if self.mode.who == "recording" else None
        # An agent's action is drawn in the step, unless another is asked for.
        chosen = replayed.action if replayed else self.buttons.take(playing=self.mode.who == "person")
        following, dreamt = agent.step(lead, chosen)
        action = int(dreamt.action)
        seen, dream = now.seen, following
        if self.mode.truth is None:
            end = bool(dreamt.outcome.end)
            last_step = LastStep.of(dreamt, agent.world_model, float(dreamt.outcome.reward), end, end)
        else:
            reward, end, over = self._world.step(action)
            seen = agent.corrected(following, self._world.frame, end=end or over)
            if self.mode.free:
                assert now.dream is not None
                dream, dreamt = agent.step(now.dream, action)
            last_step = LastStep.of(dreamt, agent.world_model, reward, end, over)
        self._past.append(now)
        self.now = self._moment(seen, dream, now.score + last_step.reward, now.step + 1, last_step)
        self.row = RecordedStep(before, ids(lead.tokens), action, last_step.reward, last_step.end, self._cut)
        self._cut = last_step.end or last_step.over

    def _open(self, number: int) -> None:
        self._recorded, self._episode = RecordedEpisode(self.episodes[number]), number
        seen = self.agent.fresh(self._recorded.frame)
        self._begin(seen, seen if self.mode.free else None)

    def _begin(self, seen: Dream, dream: Dream | None = None, score: float = 0.0, step: int = 0) -> None:
        """Go on from a moment to which no step leads: nothing before it can be undone."""
        self._past.clear()
        self._futures, self._cut = None, True
        self.now = self._start = self._moment(seen, dream, score, step)  # in a dream reset leads back to it

    def _moment(
        self, seen: Dream, dream: Dream | None, score: float = 0.0, step: int = 0, last_step: LastStep | None = None
    ) -> SessionState:
        return SessionState(seen, dream, self.agent.policy_value(self._lead(seen, dream)), last_step, score, step)

    def _lead(self, seen: Dream, dream: Dream | None) -> Dream:
        """What the one who acts sees and remembers: the truth where there is one, else the dream."""
        if self.mode.truth is not None:
            return seen
        assert dream is not None
        return dream

    @property
    def _world(self) -> RealGame | RecordedEpisode:
        return self._game if self.mode.truth == "game" or self._recorded is None else self._recorded

    def view(self) -> View:
        """The picture of this moment."""
        now, futures = self.now, self._futures
        shown = {"reconstruction": now.seen} if self.mode.truth else {}
        if now.dream is not None:
            shown["dream"] = now.dream
        panels = {name: self.agent.film(self._trail(name, dream)) for name, dream in shown.items()}
        if self.mode.truth:
            panels = {"frame": self.agent.picture(self._world.frame)} | panels
        if self.mode.truth == "game" and self._game.screen is not None:
            panels["screen"] = self._game.screen
        return View(
            panels=panels,
            tokens={name: ids(dream.tokens) for name, dream in shown.items()},
            probs=now.policy_value.probs,
            trace=trace([*self._past, self.now]),
            state=self._state(),
            entropy=None if now.last_step is None else now.last_step.entropy,
            futures=None if futures is None else self.agent.pictures(futures.dreams.tokens),
        )

    def _trail(self, name: str, dream: Dream) -> Int64[Tensor, "T K"]:
        """Tokens of the last moments of a panel up to this one."""
        before = [m.seen if name == "reconstruction" else m.dream for m in [*self._past][-TRAIL:]]
        return torch.cat([*(past.tokens for past in before if past is not None), dream.tokens])

    def _state(self) -> dict[str, Any]:
        now, last = self.now, self.now.last_step
        state: dict[str, Any] = {"step": now.step, "score": now.score, "value": now.policy_value.value}
        state |= {"mode": self.mode.name, "paused": self.paused, "fps": self.fps, "epoch": self.agent.trained.epoch}
        if last is not None:
            state |= {"action": last.action, "reward": last.reward, "end": last.end, "over": last.over}
            state |= {"expected": list(last.reward_probs), "end_prob": last.end_prob}
        if (r := self._recorded) is not None and self.mode.truth == "recording":
            state["replay"] = {"episode": self._episode, "at": r.at, "length": r.episode.length}
        if (f := self._futures) is not None:
            state["futures"] = {"at": f.at, "first": f.first, "returns": f.returns.tolist(), "ends": f.ends.tolist()}
        return state
