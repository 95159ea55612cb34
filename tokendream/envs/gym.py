"""Any Gymnasium environment, by its id: `observe` reads what it shows, `choices` what it takes.

A user's own game needs no line of ours: `module:MyGame-v0` imports `module` first, which registers the id. Images
of any size are resized to SxS by area averaging. What does not fit is refused with what was expected and what came.
"""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from jaxtyping import Int, UInt8

from tokendream.config.env import EnvConfig
from tokendream.envs import adapt
from tokendream.envs.choices import Choices
from tokendream.envs.observe import readers
from tokendream.envs.toy import CATCH
from tokendream.envs.vector import EnvError, Transition, UnknownError, check_actions, check_seeds
from tokendream.errors import once, one_line
from tokendream.spaces.observations import Spaces
from tokendream.stop import Terminated

DARK = 16
"""A game whose frames never reach this value, of 255, is hardly one to look at."""

Maker = Callable[[], gymnasium.Env[Any, Any]]


class GymEnvs:
    """`n` environments of one Gymnasium id, made by `maker`, stepped one after the other.

    The config's `max_frames`, here in decisions, truncates games that would not end by themselves.
    Determinism is the environment's promise: it must obey the seed of its reset.
    """

    def __init__(self, config: EnvConfig, n: int, maker: Maker) -> None:
        self.env_id = env_id = config.name
        self.n = n
        self._max_frames = config.max_frames
        self._envs: list[gymnasium.Env[Any, Any]] = []
        try:
            for _ in range(n):
                self._envs.append(_make(env_id, maker))
            env = self._envs[0]
            space = adapt.call(env_id, "action_space", lambda: env.action_space)
            self._choices = Choices(env_id, space)
            space = adapt.call(env_id, "observation_space", lambda: env.observation_space)
            layout, self._readers = readers(env_id, space, config, self._first)
        except EnvError:
            self.close()  # an emulator that a process may have only once must not stay
            raise
        names = self._choices.names
        if self._choices.is_choice:
            names = adapt.action_names(env, self._choices.sizes[0])
        self.spaces = Spaces(layout, self._choices.space, names, self._choices.numbers)
        self._frame = np.zeros((n, *layout.frame_shape), np.uint8)
        self._over = np.ones(n, bool)
        self._steps = np.zeros(n, np.int64)
        self._brightest: int | None = 0 if layout.is_image else None
        """The largest value of any frame, until the first game is over."""

    def reset(self, seeds: Sequence[int | None]) -> UInt8[np.ndarray, " n *O"]:
        check_seeds(seeds, self.n)
        for i, seed in enumerate(seeds):
            if seed is not None:
                self._steps[i] = 0
                where, env = self._where(i), self._envs[i]
                result = adapt.call(where, "reset", lambda env=env, seed=seed: env.reset(seed=seed))  # type: ignore[misc]
                self._show(i, adapt.check_reset(where, result), where)
                self._over[i] = False
        return self._frame.copy()

    def step(self, actions: Int[np.ndarray, " n"]) -> Transition:
        check_actions(actions, self.n, self.spaces.actions.n, f"{self.env_id}, step {self._steps.max() + 1}: ")
        reward = np.zeros(self.n, np.float32)
        end = np.zeros(self.n, bool)
        for i in np.flatnonzero(~self._over).tolist():
            self._steps[i] += 1
            where, env = self._where(i), self._envs[i]
            action = self._choices.to_env(int(actions[i]))
            result = adapt.call(where, "step", lambda env=env, action=action: env.step(action))  # type: ignore[misc]
            observation, reward[i], end[i], truncated = adapt.check_step(where, result)
            self._show(i, observation, where)
            self._over[i] = end[i] or truncated or self._steps[i] >= self._max_frames
            if self._over[i] and self._brightest is not None:
                brightest, self._brightest = self._brightest, None
                if brightest < DARK:
                    once(
                        f"{self.env_id}: no value of a frame reached {DARK} of 255 in a whole game: the agent "
                        "sees nearly black pictures (codes of a map rather than colours?)"
                    )
        return Transition(self._frame.copy(), reward, end, self._over.copy())

    def close(self) -> None:
        for env in self._envs:
            adapt.close(self.env_id, env)
        self._envs = []

    def _where(self, i: int) -> str:
        return f"{self.env_id}, step {self._steps[i]}"

    def _first(self) -> Any:
        """An observation, before there is any game."""
        where, env = f"{self.env_id}, step 0", self._envs[0]
        return adapt.check_reset(where, adapt.call(where, "reset", lambda: env.reset(seed=0)))

    def _show(self, i: int, observation: Any, where: str) -> None:
        values = {reader.part.name: reader.read(observation, where) for reader in self._readers}
        self._frame[i] = self.spaces.observation.pack(values)
        if self._brightest is not None:
            self._brightest = max(self._brightest, int(self._frame[i].max()))


def _make(env_id: str, maker: Maker) -> gymnasium.Env[Any, Any]:
    if env_id.startswith("ALE/"):
        import ale_py  # noqa: F401  (importing it registers its ids)
    try:
        return maker()
    except (KeyboardInterrupt, Terminated, EnvError):
        raise
    except gymnasium.error.DependencyNotInstalled as error:
        raise EnvError(f"environment {env_id!r} lacks a package: {one_line(error)}") from None
    except gymnasium.error.Error as error:
        # A malformed id is a plain Error, like much else; an unknown one may be of an environment inside this one.
        if env_id.rpartition(":")[2] not in gymnasium.registry:
            raise UnknownError(_unknown(env_id)) from None
        raise EnvError(f"environment {env_id!r}: {one_line(error)}") from None
    except ImportError as error:
        where = " (looked for in the working folder and on PYTHONPATH)" if ":" in env_id else ""
        raise EnvError(f"environment {env_id!r} cannot be imported: {one_line(error)}{where}") from error
    except BaseException as error:  # sys.exit() too
        why = f"{type(error).__name__}: {one_line(error)}{_place(env_id, error)}"
        raise EnvError(f"environment {env_id!r} cannot be made: {why}") from error


def _place(env_id: str, error: BaseException) -> str:
    """The last line of the id's own module that an error came through, if any."""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [
        f" ({frame.f_code.co_filename}, line {line})"
        for frame, line in frames
        if _package(frame.f_globals.get("__name__", "")) == _package(env_id)
    ]
    return lines[-1] if lines else ""


def _package(name: str) -> str:
    return re.split(r"[.:]", name)[0]


def _made_by(spec: EnvSpec) -> str:
    entry = spec.entry_point
    return _package(entry if isinstance(entry, str) else getattr(entry, "__module__", None) or "")


def _unknown(env_id: str) -> str:
    module = env_id.rpartition(":")[0]
    own = [spec.id for spec in gymnasium.registry.values() if module and _made_by(spec) == _package(module)]
    if own:
        return f"unknown environment {env_id!r}; {module} registers {', '.join(sorted(own)[:8])}"
    # Compared without namespace and version, which make short names look alike. Of several ids with one name the
    # last one counts: without namespace, then the highest version.
    specs = sorted(gymnasium.registry.values(), key=lambda spec: (spec.namespace is None, spec.version or 0))
    latest = {spec.name.lower(): spec.id for spec in specs}
    name = re.sub(r"^(.*:)?(.*/)?|-v\d+$", "", env_id).lower()
    close = [latest[match] for match in difflib.get_close_matches(name, latest, n=3, cutoff=0.4)]
    hint = " (an id of your own package is written module:Name-v0, so that the module is imported first)"
    return f"unknown environment {env_id!r}; nearest: {', '.join(close or [CATCH])}{'' if module else hint}"
