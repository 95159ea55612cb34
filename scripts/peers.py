"""Other people's agents beside ours: PPO, DQN and SAC of stable-baselines3, in the same environments and for as many
steps, one JSON file a run in results/peers.

    pip install "stable-baselines3==2.9.2" opencv-python-headless       no dependency of ours; the latter for Atari
    python scripts/peers.py ppo 60000 --env Breakout --seed 11 --evaluation.episodes 50
    python scripts/peers.py dqn 200000 --env minatar:Breakout --seed 0
    python scripts/peers.py sac 100000 --env dmc:cartpole-swingup --seed 0
    python scripts/peers.py table                                       what is there, as Markdown

Behind algorithm and steps stand flags of `tokendream train`: those of the environment, seed, device and
`--evaluation.episodes` count. A step is a decision of the agent, with our action repeat and time limit. An Atari game
is played through their own wrappers (84x84, grey, four frames, clipped rewards and lost lives as ends in training;
neither in evaluation). What they see of others and learn with is in `peer_settings.py`. Evaluation games have the seeds
that ours have; PPO samples its actions, DQN plays 1% at random, SAC takes the mean. A file that is there is not made
again.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation, TimeLimit
from peer_settings import PLAYED, settings, small_cnn

from tokendream.cli.flags import parse_train
from tokendream.config.config import Config
from tokendream.config.env import EnvConfig
from tokendream.device import processor
from tokendream.envs.atari import find_game
from tokendream.envs.families.common import wrapped
from tokendream.envs.registry import evaluation_protocol, make
from tokendream.envs.resize import resize
from tokendream.errors import ConfigError, TokendreamError, nearest, require
from tokendream.evaluation.evaluation import Evaluation, Scalar
from tokendream.evaluation.games import game_seeds

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "results" / "peers"
PACKAGE = "stable-baselines3"
INSTALL = f'pip install "{PACKAGE}==2.9.2"'

ACTIONS: dict[str, tuple[type[spaces.Space[Any]], ...]] = {
    "ppo": (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Box),
    "dqn": (spaces.Discrete,),
    "sac": (spaces.Box,),
}
"""Algorithms, and the action spaces that each can play."""

SMALLEST_IMAGE = 36
"""Pixels of a side that their convolutions need."""


class Seeded(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Every game has a seed of its own, as ours have; theirs would be seeded once."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._rng = np.random.default_rng(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is None:
            seed = int(self._rng.integers(2**31))
        else:
            self._rng = np.random.default_rng(seed)
        return self.env.reset(seed=seed, options=options)


class Resized(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Images, alone or in a Dict, at `size` pixels a side."""

    def __init__(self, env: gymnasium.Env[Any, Any], size: int) -> None:
        super().__init__(env)
        self._size, space = size, env.observation_space
        box = spaces.Box(0, 255, (size, size, 3), np.uint8)
        if isinstance(space, spaces.Dict):
            parts = {key: box if is_image(part) else part for key, part in space.spaces.items()}
            self._images = {key for key, part in space.spaces.items() if is_image(part)}
            self.observation_space = spaces.Dict(parts)
        else:
            self.observation_space = box

    def observation(self, observation: Any) -> Any:
        if isinstance(observation, dict):
            return {k: resize(v, self._size) if k in self._images else v for k, v in observation.items()}
        return resize(observation, self._size)


def is_image(space: spaces.Space[Any]) -> bool:
    """Whether it is a picture rather than a map of cells."""
    shape = space.shape or ()
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(shape) == 3 and shape[2] == 3 \
        and min(shape[:2]) >= SMALLEST_IMAGE  # fmt: skip


def environment(env: EnvConfig, *, training: bool) -> gymnasium.Env[Any, Any]:
    """The environment as its family makes it, with our limit, in a form that their networks take."""
    if env.family == "atari":
        return Seeded(_atari(env, training=training))
    name = "gymnasium_ids" if env.family == "gym" else env.family
    family = importlib.import_module(f"tokendream.envs.families.{name}")
    made = TimeLimit(wrapped(family.make(env.name, env), env), -(-env.max_frames // env.repeat))
    space = made.observation_space
    parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
    if any(map(is_image, parts)):
        return Seeded(Resized(made, max(env.size, SMALLEST_IMAGE)))
    return Seeded(made if _is_map(space) else FlattenObservation(made))


def _is_map(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 3 and np.issubdtype(space.dtype, np.integer)


def _atari(env: EnvConfig, *, training: bool) -> gymnasium.Env[Any, Any]:
    from stable_baselines3.common.atari_wrappers import AtariWrapper

    game = gymnasium.make(f"ALE/{find_game(env.name)[0]}-v5", frameskip=1, repeat_action_probability=0.0,
                          full_action_space=False, max_num_frames_per_episode=env.max_frames)  # fmt: skip
    return AtariWrapper(game, noop_max=env.atari.noop_max, frame_skip=env.atari.frame_skip,
                        terminal_on_life_loss=training, clip_reward=training)  # fmt: skip


def kind_of(config: Config, space: spaces.Space[Any]) -> str:
    """What their settings depend on: atari, image, map or vector."""
    if config.env.family in ("atari", "minigrid"):
        return {"atari": "atari", "minigrid": "map"}[config.env.family]
    if isinstance(space, spaces.Dict) or is_image(space):
        return "image"
    return "map" if _is_map(space) else "vector"


def checked(argv: list[str]) -> tuple[str, int, Config]:
    """Algorithm, steps and config. Raises ConfigError or EnvError, one line, for what cannot be played."""
    if len(argv) < 2 or not re.fullmatch(r"[1-9]\d*", argv[1]):
        raise ConfigError("expected an algorithm and a number of steps: ppo 60000 --env Breakout")
    if argv[0] not in ACTIONS:
        raise ConfigError(f"unknown algorithm {argv[0]!r}; nearest: {nearest(argv[0], ACTIONS)}")
    config = parse_train(["rem", *argv[2:]]).config
    env = config.env
    require(env.keys == "" and env.read_as == "auto", "env.keys and env.read_as", "left alone: peers see everything",
            env.keys or env.read_as)  # fmt: skip
    make(config, 1, evaluation=False).close()  # whose errors say what would help
    if env.family == "atari":
        space: spaces.Space[Any] = spaces.Discrete(2)
    else:
        made = environment(env, training=True)
        space = made.action_space
        made.close()
    if not isinstance(space, ACTIONS[argv[0]]):
        able = [name for name, kinds in ACTIONS.items() if isinstance(space, kinds)]
        raise ConfigError(
            f"{argv[0]} cannot play {env.label}, whose actions are a {type(space).__name__}"
            + (f"; {' and '.join(able)} can" if able else "")
        )
    return argv[0], int(argv[1]), config


def vector_of(config: Config, n: int, *, training: bool) -> Any:
    """`n` environments as their vector environment; frames of Atari stacked by four."""
    from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

    env = config.env if training else config.env.for_evaluation()
    made: list[Callable[[], Any]] = [lambda: environment(env, training=training) for _ in range(n)]
    vector = DummyVecEnv(made)
    return VecFrameStack(vector, 4) if env.family == "atari" else vector


def play(model: Any, envs: Any, seeds: list[int], *, deterministic: bool) -> tuple[list[float], list[int]]:
    """Scores and lengths of one game a seed."""
    scores, lengths = [], []
    for seed in seeds:
        envs.seed(seed)
        observation, score, length, over = envs.reset(), 0.0, 0, False
        while not over:
            action, _ = model.predict(observation, deterministic=deterministic)
            observation, reward, done, _ = envs.step(action)
            score, length, over = score + float(reward[0]), length + 1, bool(done[0])
        scores.append(score)
        lengths.append(length)
    return scores, lengths


def run(algorithm: str, steps: int, config: Config) -> Evaluation:
    """Train and evaluate. Their rollouts are whole, so that PPO may take some steps more; the file says how many."""
    import stable_baselines3
    import torch

    first = vector_of(config, 1, training=True)
    kind = kind_of(config, first.observation_space)
    several = isinstance(first.observation_space, spaces.Dict)
    first.close()
    n, chosen, said = settings(algorithm, kind, steps)
    is_map = kind == "map" and config.env.family != "minigrid"
    policy = "MultiInputPolicy" if several else "CnnPolicy" if kind in ("atari", "image") else "MlpPolicy"
    if is_map:
        chosen["policy_kwargs"] = {"features_extractor_class": small_cnn()}
    envs = vector_of(config, n, training=True)
    model = getattr(stable_baselines3, algorithm.upper())(
        policy, envs, seed=config.seed, device=config.device, **chosen
    )
    wall, core = time.monotonic(), time.process_time()
    model.learn(steps)
    minutes, core_minutes = (time.monotonic() - wall) / 60, (time.process_time() - core) / 60
    envs.close()
    if algorithm == "dqn":
        model.exploration_rate = PLAYED
    seeds = game_seeds(config.seed, config.evaluation.episodes)
    envs = vector_of(config, 1, training=False)
    scores, lengths = play(model, envs, seeds, deterministic=algorithm == "sac")
    envs.close()
    seen: dict[str, Scalar] = {**evaluation_protocol(config.env)}
    if config.env.family == "atari":
        seen |= {"size": 84, "frames": PACKAGE}
    versions = [f"{name} {importlib.metadata.version(name)}" for name in (PACKAGE, "torch", "gymnasium")]
    protocol = {"seed": config.seed, "temperature": None, **seen, "envs": 1, "player": algorithm,
                "policy": policy + (", small CNN" if is_map else ""), "settings": json.dumps(said),
                "env_steps": int(model.num_timesteps), "training_envs": n, "minutes": round(minutes, 2),
                "core_minutes": round(core_minutes, 2), "threads": torch.get_num_threads(), "processor": processor(),
                "versions": ", ".join(versions)}  # fmt: skip
    return Evaluation(config.env_name, protocol, tuple(scores), tuple(lengths), tuple(seeds))


def table() -> str:
    """A row a file, with what it took."""
    lines = ["| environment | player | steps | seed | games | mean (95% interval) | minutes |", "|" + "---|" * 7]
    for path in sorted(PEERS.glob("*.json")):
        found = Evaluation.from_json(path.read_text())
        p, (low, high) = found.protocol, found.interval
        lines.append(f"| {found.env} | {p['player']} | {p['env_steps']:,} | {p['seed']} | {len(found.scores)} | "
                     f"{found.mean:,.2f} ({low:,.2f} to {high:,.2f}) | {p['minutes']:.0f} |")  # fmt: skip
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Run one of the commands. Returns the exit code."""
    if argv == ["table"]:
        print(table())
        return 0
    try:
        algorithm, steps, config = checked(argv)
        stem = re.sub(r"[^\w.-]+", "-", config.env_name)
        path = PEERS / f"{stem}-{algorithm}-{steps}-seed{config.seed}.json"
        if path.exists():
            print(f"{path} is there already")
            return 0
        if not importlib.util.find_spec("stable_baselines3"):
            raise ConfigError(f"{PACKAGE} is not installed: {INSTALL}")
        result = run(algorithm, steps, config)
    except TokendreamError as error:
        print(f"peers: {error}", file=sys.stderr)
        return 2
    result.write(path)
    print(f"{result.describe()}\n{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
