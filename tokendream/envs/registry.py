"""From a config to environments: the families that there are. Importing this makes the built-in games known.

A new family is a module of its own, an entry here and its name (and what its protocol has of its own) in
`config.env`.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium

from tokendream.config.config import Config
from tokendream.config.env import EnvConfig
from tokendream.envs import toy
from tokendream.envs.atari import AtariEnvs, find_game, games
from tokendream.envs.atari_published import PublishedAtariEnvs
from tokendream.envs.families import crafter, dmc, gymnasium_ids, minatar, minigrid, vizdoom
from tokendream.envs.families.common import installed, wrapped
from tokendream.envs.gym import GymEnvs
from tokendream.envs.vector import EnvError, Envs, UnknownError
from tokendream.envs.watchdog import Watched
from tokendream.spaces.observations import Spaces

toy.register()

MakeEnv = Callable[[str, EnvConfig], gymnasium.Env[Any, Any]]
"""One environment of a family, by its name there."""

EvaluationProtocol = dict[str, int | float | str]
"""What a reader of an evaluation must know of how its games were played."""


@dataclass(frozen=True)
class Family:
    """One kind of environments: `make(env, n)`, and what its evaluations' protocol has of its own."""

    make: Callable[[EnvConfig, int], Envs]
    protocol: Callable[[EnvConfig], EvaluationProtocol]
    names: Callable[[], Iterable[str]] = tuple
    """What there is to play."""
    example: str = ""
    """An id of it."""
    package: str = ""
    """The module that its extra installs, where it needs one."""


def make(config: Config, n: int, *, evaluation: bool) -> Envs:
    """`n` envs of the config's environment, under the training or the evaluation protocol and its time limit.

    Raises EnvError, one line, for an environment that is unknown or does not fit.
    """
    env = config.env.for_evaluation() if evaluation else config.env
    try:
        envs = FAMILIES[env.family].make(env, n)
    except UnknownError as error:
        other = _elsewhere(env)
        raise EnvError(f"{error}; of another family: {other}" if other else str(error)) from None
    return Watched(envs, config.env_name, env.step_timeout) if env.step_timeout else envs


def spaces_of(config: Config) -> Spaces:
    """What the config's environment shows and takes: one is made, and closed. Raises EnvError as `make` does."""
    envs = make(config, 1, evaluation=False)
    envs.close()
    return envs.spaces


def is_id(word: str) -> bool:
    """Whether a word is written like an environment's id, with a colon, a slash or a version, or is an Atari game."""
    if ":" in word or EnvConfig(word).family != "atari":
        return True
    try:
        find_game(word)
    except UnknownError:
        return False
    return True


def evaluation_protocol(env: EnvConfig) -> EvaluationProtocol:
    """The protocol of an evaluation in this environment."""
    common: EvaluationProtocol = {"size": env.size, "max_frames": env.eval_max_frames, "life_loss_ends": False}
    return common | FAMILIES[env.family].protocol(env)


def _elsewhere(env: EnvConfig) -> str:
    """The id of an installed environment of another family that has the same name but for its version, if any."""
    for name, family in FAMILIES.items():
        if name != env.family and (not family.package or installed(family.package)):
            same = [known for known in family.names() if _bare(known) == _bare(env.name)]
            if same:  # without a namespace, of the highest version
                best = max(same, key=lambda known: ("/" not in known, known))
                return best if name == "gym" else f"{name}:{best}"
    return ""


def _bare(name: str) -> str:
    """A name without namespace and version, however it is spelt."""
    return re.sub(r"^.*/|-v\d+$", "", name).lower().replace("_", "-")


def _atari(env: EnvConfig, n: int) -> Envs:
    return (AtariEnvs if env.atari.frames == "ale" else PublishedAtariEnvs)(env, n)


def _atari_protocol(env: EnvConfig) -> EvaluationProtocol:
    protocol: EvaluationProtocol = {
        "frame_skip": env.atari.frame_skip,
        "noop_max": env.atari.eval_noop_max,
        "sticky_actions": 0.0,
    }
    # Results from before there was a choice say nothing.
    return protocol if env.atari.frames == "ale" else protocol | {"frames": env.atari.frames}


def _gym(env: EnvConfig, n: int) -> Envs:
    prefix, colon, _ = env.id.partition(":")
    close = difflib.get_close_matches(prefix, FAMILIES, n=1)
    if colon and close and prefix not in FAMILIES and prefix.isidentifier() and not importlib.util.find_spec(prefix):
        raise EnvError(f"{env.id!r}: {prefix!r} is no module, nor a family of environments; nearest: {close[0]}")
    return _gymnasium(env, n, gymnasium_ids.make)


def _gymnasium(env: EnvConfig, n: int, make: MakeEnv) -> Envs:
    # Games are counted in decisions there.
    limit = -(-env.max_frames // env.repeat)
    return GymEnvs(replace(env, max_frames=limit), n, lambda: wrapped(make(env.name, env), env))


def _gymnasium_protocol(env: EnvConfig) -> EvaluationProtocol:
    protocol: EvaluationProtocol = {
        "action_repeat": env.repeat, "kwargs": env.kwargs, "wrappers": env.wrappers, "keys": env.keys,
        "read_as": env.read_as,
    }  # fmt: skip
    return {name: value for name, value in protocol.items() if value not in (1, "{}", "", "auto")}


def _family(make: MakeEnv, names: Callable[[], Iterable[str]], example: str, package: str) -> Family:
    return Family(lambda env, n: _gymnasium(env, n, make), _gymnasium_protocol, names, example, package)


FAMILIES: Mapping[str, Family] = {
    "atari": Family(_atari, _atari_protocol, games, "atari:Breakout"),
    "gym": Family(_gym, _gymnasium_protocol, gymnasium_ids.names, "gym:CartPole-v1"),
    "dmc": _family(dmc.make, dmc.names, "dmc:walker-walk", "dm_control"),
    "minatar": _family(minatar.make, minatar.names, "minatar:Breakout", "minatar"),
    "minigrid": _family(minigrid.make, minigrid.names, "minigrid:MiniGrid-DoorKey-6x6-v0", "minigrid"),
    "vizdoom": _family(vizdoom.make, vizdoom.names, "vizdoom:VizdoomBasic-v1", "vizdoom"),
    "crafter": _family(crafter.make, crafter.names, "crafter:Reward", "crafter"),
}
"""Families by the name before the colon of `env.id`."""
