"""Catch that breaks at a chosen step, in the ways environments break. `torture.games:Faulty-v0` is its id."""

from __future__ import annotations

import threading
import time
from typing import Any

import gymnasium
import numpy as np

from tokendream.envs.toy import Catch

FAULTS = ("raise", "nan", "shape", "dtype", "none", "sleep", "spin")


class Faulty(Catch):
    """`fault` strikes at the `at`-th step that any of these takes in this process, or at the first reset after it; ""
    never."""

    fault, at, steps = "", 0, 0

    def reset(self, **given: Any) -> Any:
        if Faulty.fault == "reset" and Faulty.steps >= Faulty.at:
            raise RuntimeError("no new game")
        return super().reset(**given)

    def step(self, action: Any) -> Any:
        Faulty.steps += 1
        observation, reward, *rest = super().step(action)
        if Faulty.steps == Faulty.at:
            return self._broken(observation, reward, rest)
        return observation, reward, *rest

    def _broken(self, observation: Any, reward: float, rest: list[Any]) -> Any:
        fault = Faulty.fault
        if fault == "raise":
            raise RuntimeError("the game\ncrashed")
        if fault == "sleep":
            time.sleep(600)
        while fault == "spin":
            pass
        if fault == "nan":
            reward = float("nan")
        if fault == "shape":
            observation = observation[:50]
        if fault == "dtype":
            observation = observation.astype(np.float32)
        if fault == "none":
            observation = None
        return observation, reward, *rest


class Stubborn(Catch):
    """Hangs at its 35th step, and nothing raised in it gets out: only the end of the process does."""

    def step(self, action: Any) -> Any:
        Faulty.steps += 1
        while Faulty.steps == 35:
            try:
                threading.Event().wait()
            except Exception:
                continue
        return super().step(action)


class Native(Catch):
    """Hangs at its 35th step in native code: ALE's threads never answer an action that there is not."""

    def step(self, action: Any) -> Any:
        Faulty.steps += 1
        if Faulty.steps == 35:
            from ale_py.vector_env import AtariVectorEnv

            pong = AtariVectorEnv("pong", 1)
            pong.reset()
            pong.step(np.array([99], np.int32))
        return super().step(action)


for name in ("Faulty", "Stubborn", "Native"):
    if f"{name}-v0" not in gymnasium.registry:
        gymnasium.register(f"{name}-v0", entry_point=f"{__name__}:{name}", disable_env_checker=True)
