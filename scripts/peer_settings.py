"""What the peers of `peers.py` are trained with, chosen before any of their runs and not tuned by us.

Atari: what RL Baselines3 Zoo publishes for PPO and DQN, but DQN learns from 1% of the steps on (the Zoo: of ten
millions). Maps: PPO as the Zoo has it for MiniGrid, with an entropy weight of .01 and without running norms; DQN as
MinAtar's authors have it (arXiv 1903.03176), with Adam; boards are seen by their network of one convolution, MiniGrid's
view as one-hot by two layers of 64. Everything else: the package's defaults.
"""

from __future__ import annotations

from typing import Any

PLAYED = 0.01
"""Share of random actions of DQN's evaluation games."""

WITH_STEPS = 100_000
"""Steps over which MinAtar's authors lower the share of random actions."""


def settings(algorithm: str, kind: str, steps: int) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Environments side by side, arguments for the algorithm, and the same as plain data."""
    table: dict[tuple[str, str], tuple[int, dict[str, Any]]] = {
        ("ppo", "atari"): (8, {"n_steps": 128, "batch_size": 256, "n_epochs": 4, "learning_rate": "2.5e-4 to 0",
                               "clip_range": "0.1 to 0", "vf_coef": 0.5, "ent_coef": 0.01}),
        ("dqn", "atari"): (1, {"buffer_size": min(100_000, steps), "learning_rate": 1e-4, "batch_size": 32,
                               "learning_starts": steps // 100, "target_update_interval": 1000, "train_freq": 4,
                               "gradient_steps": 1, "exploration_fraction": 0.1, "exploration_final_eps": 0.01,
                               "optimize_memory_usage": True,
                               "replay_buffer_kwargs": {"handle_timeout_termination": False}}),
        ("ppo", "map"): (8, {"n_steps": 128, "batch_size": 64, "n_epochs": 10, "learning_rate": 2.5e-4,
                             "ent_coef": 0.01}),
        ("dqn", "map"): (1, {"buffer_size": min(100_000, steps), "learning_rate": 2.5e-4, "batch_size": 32,
                             "learning_starts": min(5000, steps // 10), "target_update_interval": 1000,
                             "train_freq": 1, "exploration_fraction": min(1.0, WITH_STEPS / steps),
                             "exploration_final_eps": 0.1}),
        ("ppo", "image"): (8, {"n_steps": 128, "batch_size": 256, "n_epochs": 4, "ent_coef": 0.01}),
        ("dqn", "image"): (1, {"buffer_size": min(100_000, steps)}),
        ("sac", "image"): (1, {"buffer_size": min(100_000, steps)}),
    }  # fmt: skip
    n, said = table.get((algorithm, kind), (1, {}))
    return n, {name: _schedule(value) if isinstance(value, str) else value for name, value in said.items()}, said


def _schedule(text: str) -> Any:
    """A line down to zero over the training: theirs is a function of the share that is left."""
    first = float(text.partition(" ")[0])
    return lambda left: left * first


def small_cnn() -> type[Any]:
    """The network of MinAtar's authors: 16 filters of 3x3 and a dense layer of 128, for boards with fields last."""
    import torch
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from torch import Tensor, nn

    class SmallCnn(BaseFeaturesExtractor):
        def __init__(self, space: Any) -> None:
            super().__init__(space, 128)
            height, width, fields = space.shape
            self.layers = nn.Sequential(
                nn.Conv2d(fields, 16, 3), nn.ReLU(), nn.Flatten(),
                nn.Linear(16 * (height - 2) * (width - 2), 128), nn.ReLU(),
            )  # fmt: skip

        def forward(self, observation: Tensor) -> Tensor:
            features: Tensor = self.layers(observation.to(torch.float32).permute(0, 3, 1, 2))
            return features

    return SmallCnn
