"""Does C's memory of a whole game cost its score? Games with all of the past, and with the last steps of it alone.

    python scripts/policy_memory.py RUN GAMES STEPS [STEPS ...]

In training C remembers `dream.burn_in` steps and those of a dream; in a game thousands. With STEPS its memory is made
anew at every step from so many steps before it; 0 keeps all of them. One JSON line each.
"""

from __future__ import annotations

import collections
import json
import sys
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8

from tokendream.evaluation.evaluation import evaluate
from tokendream.runfolder.load import Trained

SEED = 777


class Forgetful:
    """The agent as a player that remembers so many steps."""

    def __init__(self, trained: Trained, steps: int) -> None:
        self._trained, self._generator = trained, torch.Generator().manual_seed(1)
        self._past: collections.deque[tuple[torch.Tensor, torch.Tensor]] = collections.deque(maxlen=steps)
        self._age: Int64[np.ndarray, " n"] | int = 0

    @torch.no_grad()
    def __call__(self, frame: UInt8[np.ndarray, " n *O"], first: Bool[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        config, agent, C = self._trained.config, self._trained.agent, self._trained.agent.actor_critic
        self._age = np.where(first, 0, self._age)
        with self._trained.compute.autocast():
            tokens, state = agent.tokenizer.encode(torch.from_numpy(frame)), C.initial_state(len(frame))
            view = agent.view(tokens, agent.tokenizer.codes(tokens))
            if self._past:
                views, actions = (torch.stack(each, dim=1) for each in zip(*self._past, strict=True))
                back = np.arange(len(self._past), 0, -1)
                state = C.burn_in(views, actions, torch.from_numpy(self._age[:, None] >= back), config.dream)
            logits = C(view, state)[0].logits
            action = C.actions.sample(logits, self._generator, temperature=config.evaluation.temperature, epsilon=0.0)
        self._past.append((view, action))
        self._age = self._age + 1
        return action.numpy()


def main(run: str, games: str, *steps: str) -> None:
    """Play and print."""
    trained = Trained.load(Path(run), "cpu")
    temperature = trained.config.evaluation.temperature
    for n in map(int, steps):
        policy = Forgetful(trained, n) if n else trained.policy(seed=1)
        found, _ = evaluate(trained.config, policy, int(games), SEED, temperature=temperature)
        line = {"run": Path(run).name, "remembers": n or "all", "temperature": temperature}
        print(json.dumps({**line, "mean": found.mean, "interval": found.interval, "scores": found.scores}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
