"""C alone, in dreams of a run whose V, M and replay stay as they are: what dreams pay it, every so many batches.

    python scripts/controller.py runs/krull own 0 60 20 0
    python scripts/controller.py runs/krull new 0 60 20 8 dream.group=8 training.actor_critic.batch=8

A run folder, its own C or a new one, a seed, batches of dreams, batches between two measurements, real games at the end
(as many at the evaluation's temperature as at 1), other fields of the run's config. What dreams pay is undiscounted,
over 40 steps from the same 512 of all moments each time. Behind the games, of 1,000 more steps under the training
protocol: what M expects a step of them to pay, knowing all frames before it, and what it pays, both in M's units. Where
the first is far above the second, C has found what M pays wrongly. One JSON line a measurement. `rewards=game` among
the fields: see game_rewards.py.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from dream_signal import changed, discounted, draw, drawn, seen
from game_rewards import GameRewards
from world_model import collected

from tokendream.agent.agent import Agent
from tokendream.data.batch import Segment
from tokendream.data.replay import ReplayBuffer
from tokendream.device import processor
from tokendream.dream import imagine
from tokendream.dream.objective import clipped_loss, dreamed, minibatches
from tokendream.dream.reward import reward_function
from tokendream.evaluation.diagnosis.world import one_step_ahead
from tokendream.evaluation.evaluation import evaluate
from tokendream.kernels.install import install
from tokendream.runfolder.load import Trained, player
from tokendream.training.update import gradient_update, optimiser_for

STEPS, MOMENTS, AT_ONCE = 40, 512, 128


@torch.no_grad()
def pays(trained: Trained, moments: list[Segment]) -> torch.Tensor:
    """What a dream from each of these moments pays."""
    agent, found = trained.agent, []
    paid = reward_function(agent, trained.config.dream)
    for i, segment in enumerate(moments):
        generator = torch.Generator().manual_seed(i)
        with trained.compute.autocast():
            begin = imagine.start(agent, *segment, trained.config.dream)
            rollout = imagine.imagine(begin, agent, STEPS, generator, reward=paid)
        found.append(discounted(rollout.rewards, rollout.ends, 1.0))
    return torch.cat(found)


@torch.no_grad()
def foresees(trained: Trained, replay: ReplayBuffer) -> tuple[float, float]:
    """What M expects a step to pay, one step ahead of segments as it was trained on, and what these pay."""
    agent, M, length = trained.agent, trained.agent.world_model, trained.config.world_model.segment_length
    segment = seen(agent, replay, replay.segments(replay.anchors(0, length - 1)[::2], length, align="start"))
    with trained.compute.autocast():
        prediction = one_step_ahead(agent, segment)
    known, scored = M.outcomes
    foreseen, paid = M.rewards.number(prediction.reward[:, known]).mean(), segment.steps.reward[:, scored].mean()
    return float(foreseen / M.rewards.unit), float(paid / M.rewards.unit)


def main(run: str, which: str, seed: str, batches: str, every: str, games: str, *changes: str) -> None:
    """Train C and measure it."""
    trained = Trained.load(Path(run), "cpu")
    fields = [change for change in changes if change != "rewards=game"]
    trained = dataclasses.replace(trained, config=changed(trained.config, fields))
    config, agent, compute = trained.config, trained.agent, trained.compute
    agent.world_model.config = config.world_model
    replay, rng = collected(Path(run), config), np.random.default_rng(int(seed))
    alike = changed(config, ["dream.rewarded_starts=0"])
    game = GameRewards(agent, replay, config) if len(fields) < len(changes) else None
    moments = [draw(agent, replay, alike, AT_ONCE, np.random.default_rng(i)) for i in range(MOMENTS // AT_ONCE)]
    torch.manual_seed(int(seed))
    if which == "new":
        agent.actor_critic = Agent.from_config(config, trained.spaces).actor_critic
        install(agent, compute)
    C, phase, dream = agent.actor_critic, config.training.actor_critic, config.dream
    optimiser, generator = optimiser_for(C, phase), torch.Generator().manual_seed(int(seed))
    line, seconds = {"run": Path(run).name, "c": which, "seed": int(seed), "changes": changes}, 0.0
    for n in range(int(batches) + 1):
        if n % int(every) == 0:
            paid = pays(trained, moments)
            measured = {"batches": n, "paid": float(paid.mean()), "error": float(paid.std() / len(paid) ** 0.5)}
            print(json.dumps(line | measured | {"cpu_seconds": round(seconds), "processor": processor()}), flush=True)
        if n == int(batches):
            break
        began = time.process_time()
        segments = drawn(replay, config, phase.batch, rng, phase.newest)
        with compute.autocast():
            if game is None:
                experience = dreamed(agent, *seen(agent, replay, segments), dream, generator)
            else:
                experience = game.dreamed(segments, generator)
        for share in minibatches(experience, dream, rng):
            gradient_update(
                share, loss=lambda batch: clipped_loss(agent, batch, dream), module=C, optimiser=optimiser,
                clip=phase.clip, compute=compute,
            )  # fmt: skip
        seconds += time.process_time() - began
    for temperature in (config.evaluation.temperature, 1.0) if int(games) else ():
        policy = player(agent, compute, seed=int(seed), temperature=temperature)
        found, _ = evaluate(config, policy, int(games), 99, temperature=temperature)
        scores = {"temperature": temperature, "mean": found.mean, "interval": found.interval, "scores": found.scores}
        foreseen, came = foresees(trained, trained.play(1000, int(seed), temperature=temperature))
        scores |= {"foreseen": foreseen, "paid": came}
        print(json.dumps(line | {"batches": int(batches)} | scores), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
