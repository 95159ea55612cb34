"""From a config to environments. Importing this module makes the built-in games known to Gymnasium."""

from __future__ import annotations

from tokendream.config.config import Config
from tokendream.envs import toy
from tokendream.envs.atari import AtariEnvs
from tokendream.envs.gym import GymEnvs
from tokendream.envs.vector import Envs
from tokendream.envs.watchdog import Watched

toy.register()


def make(config: Config, n: int, *, evaluation: bool) -> Envs:
    """`n` lanes of the config's game, under the training or the evaluation protocol and its time limit.

    `config.env_id` names a Gymnasium environment and wins over `config.game`, an Atari game. Raises EnvError, one
    line, for a game or an environment that is unknown or does not fit.
    """
    envs = _make(config, n, evaluation=evaluation)
    limit = config.env.step_timeout
    return Watched(envs, config.env_name, limit) if limit else envs


def _make(config: Config, n: int, *, evaluation: bool) -> Envs:
    env = config.env
    max_frames = env.eval_max_frames if evaluation else env.max_frames
    if config.env_id:
        return GymEnvs(config.env_id, n, size=env.size, max_frames=max_frames)
    return AtariEnvs(
        config.game,
        n,
        size=env.size,
        frame_skip=env.frame_skip,
        noop_max=env.eval_noop_max if evaluation else env.noop_max,
        max_frames=max_frames,
        life_loss_ends=env.life_loss_ends and not evaluation,
    )
