"""C on the real game in place of dreams: what it could do if M were perfect. One JSON line an evaluation.

    python scripts/real_game.py toy-dictionary 0 tokendream/Catch-v0 80 4 --dream.reuse 4
    python scripts/real_game.py cpu-dictionary 0 Boxing 150 5 --dream.reuse 4 --dream.entropy-weight 0.05
    python scripts/real_game.py control 0 dmc:cartpole-swingup 500 5

A preset whose tokenizer is not trained, a seed, a game, batches, how often to evaluate, and fields of the config. V is
fitted on random play. Then as many games as C has dreams in a batch are played side by side, `dream.horizon` steps a
batch, and C learns from those steps by the loss that it has for dreams.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from tokendream.agent.agent import Agent, AgentPolicy
from tokendream.cli.flags import parse_train
from tokendream.config.config import Config
from tokendream.config.cuts import CUTS
from tokendream.device import Compute, processor
from tokendream.dream.imagine import Rollout
from tokendream.dream.objective import Experience, clipped_loss, minibatches
from tokendream.envs.registry import make
from tokendream.envs.vector import Envs
from tokendream.evaluation.evaluation import evaluate
from tokendream.kernels.install import install
from tokendream.kernels.machine import compute_for
from tokendream.nn.seen import Seen
from tokendream.tokenizers.protocol import Fitted
from tokendream.training.update import gradient_update, optimiser_for

Frames = UInt8[np.ndarray, "n *F"]


def fit(agent: Agent, envs: Envs, steps: int, seed: int) -> tuple[Frames, list[np.ndarray]]:
    """Show V this many steps of random play; it leaves the games at moments of their own. Also what the steps paid."""
    rng, each, paid = np.random.default_rng(seed), steps // envs.n, list[np.ndarray]()
    frame = envs.reset(range(envs.n))
    for step in range(each):
        if isinstance(agent.tokenizer, Fitted):
            agent.tokenizer.fit(torch.from_numpy(frame.copy()))
        transition = envs.step(rng.integers(envs.spaces.actions.n, size=envs.n))
        paid.append(transition.reward)
        again = transition.over | (np.arange(envs.n) * each // envs.n == step)
        frame = envs.reset([envs.n * step + i if over else None for i, over in enumerate(again)])
    return frame, paid


def play(
    agent: Agent, envs: Envs, frame: Frames, paid: list[np.ndarray], config: Config, compute: Compute
) -> Iterator[Experience]:
    """Batches of real steps, one after the other, by the policy as it is then; `paid` is what came before."""
    generator, seeds = torch.Generator().manual_seed(config.seed), iter(range(10**6 * config.seed, 10**9))
    C, V, head = agent.actor_critic, agent.tokenizer, agent.world_model.rewards
    memory = C.initial_state(envs.n)
    while True:
        if isinstance(head, Seen):
            head.fit(np.concatenate(paid))
        kept: list[tuple[Tensor, ...]] = []
        start = memory
        with torch.no_grad(), compute.autocast():
            for _ in range(config.dream.horizon):
                tokens = V.encode(torch.from_numpy(frame.copy()))
                output, memory = C(agent.view(tokens, V.codes(tokens)), memory)
                action = C.actions.sample(output.logits, generator)
                memory = C.absorb_action(action, memory)
                transition = envs.step(action.cpu().numpy())
                paid.append(transition.reward)
                reward = head.paid(torch.from_numpy(transition.reward)) / head.unit
                # A game that was only cut short is worth what its last state was.
                cut = torch.from_numpy(transition.over & ~transition.end)
                reward = reward + config.dream.discount * output.value * cut
                ended = torch.from_numpy(transition.end | transition.over)
                kept.append((tokens, output.logits, output.value, action, reward, ended, output.critic))
                memory = memory.keep(~ended)
                frame = envs.reset([next(seeds) if over else None for over in transition.over])
            rollout = Rollout(*(torch.stack(column, dim=1) for column in zip(*kept, strict=True)))
            experience = Experience.of(rollout, start, C.actions, config.dream)
        yield experience


def main(preset: str, seed: str, game: str, batches: str, evaluations: str, *flags: str) -> None:
    """Train, and evaluate so many times on the way."""
    config = CUTS["no-group"](parse_train([preset, "--seed", seed, "--env", game, *flags]).config)  # as many games
    compute, phase = compute_for(config), config.training.actor_critic
    torch.manual_seed(config.seed)
    envs = make(config, phase.batch, evaluation=False)
    agent = Agent.from_config(config, envs.spaces).to(compute.device).eval()
    install(agent, compute)
    frame, paid = fit(agent, envs, 32_000, config.seed)
    optimiser, began = optimiser_for(agent.actor_critic, phase), time.process_time()
    rng = np.random.default_rng(config.seed)
    every = int(batches) // int(evaluations)
    experiences = play(agent, envs, frame, paid, config, compute)
    for n in range(1, int(batches) + 1):
        for experience in minibatches(next(experiences), config.dream, rng):
            losses, _ = gradient_update(
                experience, loss=lambda batch: clipped_loss(agent, batch, config.dream), module=agent.actor_critic,
                optimiser=optimiser, clip=phase.clip, compute=compute,
            )  # fmt: skip
        if n % every == 0:
            temperature, episodes = config.evaluation.temperature, config.evaluation.episodes
            policy = AgentPolicy(agent, compute, temperature=temperature, seed=n)
            result, _ = evaluate(config, policy, episodes, seed=config.seed, temperature=temperature)
            figures = {name: round(float(value), 4) for name, value in losses.figures().items()}
            line = {"game": game, "preset": preset, "seed": config.seed, "flags": flags, "batches": n,
                    "env_steps": n * phase.batch * config.dream.horizon, "mean": result.mean,
                    "interval": result.interval, "games": episodes, **figures,
                    "cpu_seconds": round(time.process_time() - began), "processor": processor()}  # fmt: skip
            print(json.dumps(line), flush=True)
    envs.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
