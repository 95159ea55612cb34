"""Every update on a GPU that is not there (see `fake_gpu`): nothing mixes devices, waits or crosses the bus."""

import dataclasses
import importlib
import json
from pathlib import Path

import any_spaces  # noqa: F401 (registers environments)
import numpy as np
import pytest
import torch
from fake_gpu import DEVICE, TYPE, fake_gpu, moved, trainer_on
from torch.utils import _pytree as pytree

from tokendream.agent.agent import Agent, AgentPolicy
from tokendream.config.config import Config, vary
from tokendream.config.presets import TINY, preset
from tokendream.config.schedule import PARTS
from tokendream.data.batch import Segment
from tokendream.envs.registry import make
from tokendream.nn.losses import Losses
from tokendream.spaces.observations import image_spaces
from tokendream.training.phase import GradientPhase
from tokendream.training.phases import WorldModelPhase
from tokendream.training.synthetic import ACTIONS
from tokendream.training.trainer import Trainer

CONFIG = vary(vary(TINY, "tokenizer", perceptual="vgg16", revive_after=3, changed_weight=1.0), "dream", reuse=2)
CONFIG = vary(CONFIG, "world_model", copy_head=True, local_prediction=True, outcome_from="frame")
ROWS = 64
BF16, FLOAT32 = torch.bfloat16, torch.float32
IMAGE = image_spaces(64, ACTIONS)


def small(config: Config) -> Config:
    """A preset with all that it has, at the smallest sizes."""
    config = vary(config, "tokenizer", channels=8, codebook_size=16, code_width=16, perceptual="vgg16")
    config = vary(config, "world_model", width=16, heads=2, layers=1, segment_length=5)
    config = vary(config, "actor_critic", lstm_width=16)
    phases = {part: dataclasses.replace(getattr(config.training, part), batch=2) for part in PARTS}
    return vary(vary(config, "dream", horizon=2, burn_in=3), "training", **phases)  # sixteen calls a step without POP


def richer(config: Config) -> Config:
    """With what else a tokenizer's loss may have."""
    return vary(config, "tokenizer", revive_after=3, changed_weight=1.0)


def build(agent: Agent, config=CONFIG, dtype=BF16, spaces=IMAGE) -> Trainer:
    """A trainer on the fake GPU; call it within `fake_gpu`."""
    return trainer_on(agent, config, dtype, spaces, ROWS)


CASES = {
    "tiny": richer(TINY),
    "tiny-no-pop": preset("tiny-no-pop"),
    "tiny-transformer": preset("tiny-transformer"),
    "tiny-own-embedding": preset("tiny-own-embedding"),
    "tiny-pixels": preset("tiny-pixels"),
    "rem": preset("rem"),
    "simulus": richer(vary(preset("easimulus"), "world_model", copy_or_sample=True, positions="grid")),
    "simulus-dmc": preset("simulus-dmc"),
    "control": vary(preset("control"), "dream", minibatches=1),
    "groups": vary(vary(TINY, "dream", group=4, scale_by_quantiles=True), "world_model", reward_head="seen"),
}


@pytest.mark.parametrize(("name", "dtype"), [("tiny", FLOAT32), *((name, BF16) for name in CASES if name != "tiny")])
def test_an_update_neither_waits_nor_crosses_the_bus_and_moves_all(name, dtype):
    config, spaces = small(CASES[name]), IMAGE
    if name in ("simulus-dmc", "control"):
        spaces = make(vary(config, "env", id="gym:AnyVector-v0"), 1, evaluation=False).spaces
    agent = Agent.from_config(config, spaces)
    with fake_gpu() as crossings:
        trainer = build(agent, config, dtype, spaces)
        for part in PARTS:
            phase = trainer.phases[part]
            if not isinstance(phase, GradientPhase):  # nothing of it is trained
                continue
            segments, batch = phase.draw()
            if part == "actor_critic" and config.dream.reuse > 1:
                batch = phase._dreaming(batch)
            assert {x.device.type for x in pytree.tree_leaves(batch)} == {TYPE}
            crossings.found.clear()
            losses, norm = phase.captured(batch)
            assert crossings.found == []
            assert dtype in crossings.products
            assert [name for name, p in phase.module.named_parameters() if p.requires_grad and p.grad is None] == []
            figures = {**losses.figures(), "norm": norm}
            assert {name: x.device.type for name, x in figures.items()} == dict.fromkeys(figures, TYPE)
            assert {x.dtype for x in figures.values()} == {FLOAT32}
            trainer._guard.watch(0, segments, losses, norm)
            trainer._means.add(part, figures)
            assert crossings.found == []


def test_a_phase_takes_rows_in_and_nothing_out():
    agent = Agent.from_config(CONFIG, ACTIONS)
    with fake_gpu() as crossings:
        trainer = build(agent)
        trainer.shared.cache.refresh()
        for part in PARTS:
            crossings.found.clear()
            trainer.update(part)
            assert 1 <= len(crossings.found) <= 7
            assert set(crossings.found) == {f"cpu to {TYPE}"}


def test_a_step_of_the_policy_neither_waits_nor_crosses_the_bus():
    agent = Agent.from_config(CONFIG, ACTIONS)
    with fake_gpu() as crossings:
        trainer = build(agent)
        memory = agent.actor_critic.initial_state(1)
        frame, before = trainer.replay.frames(np.arange(2))[:1], torch.empty(1, dtype=torch.int64, device=DEVICE)
        crossings.found.clear()
        chosen, memory = trainer._collector.choose(frame, before, memory)
        assert crossings.found == []
        assert {x.device.type for x in (chosen, *memory)} == {TYPE}


def test_a_choice_of_an_evaluation_neither_waits_nor_crosses_the_bus(monkeypatch):
    agent = Agent.from_config(CONFIG, ACTIONS)
    with fake_gpu() as crossings:
        trainer = build(agent)
        host = torch.Generator()
        with monkeypatch.context() as patch:
            patch.setattr(torch, "Generator", lambda device=None: host)
            policy = AgentPolicy(agent, trainer.compute, temperature=0.5, seed=0)
        memory = agent.actor_critic.initial_state(2)
        frame = trainer.replay.frames(np.arange(2))
        going_on = torch.ones(2, dtype=torch.bool, device=TYPE)
        crossings.found.clear()
        chosen, memory = policy._choose(frame, going_on, memory)
        assert crossings.found == []
        assert {x.device.type for x in (chosen, *memory)} == {TYPE}


BAD = {
    "item": lambda x: x * x.item(),
    "branch": lambda x: x if x > 0 else -x,
    "boolean index": lambda x: x[None][x[None] > 0].sum(),
    "host": lambda x: x.cpu().to(x.device),
    "constant": lambda x: x + torch.ones(2).to(x.device).sum(),
    "mixed": lambda x: x + torch.ones(2).sum(0, keepdim=True),
    "precisions": lambda x: torch.mm(x.view(1, 1).double(), x.view(1, 1)).sum(),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_waits_or_crosses_in_a_loss_is_found(kind, monkeypatch):
    """The control: each of these passes every test on a CPU."""
    loss = WorldModelPhase.loss

    def worse(self: WorldModelPhase, batch: Segment) -> Losses:
        losses = loss(self, batch)
        return Losses({name: BAD[kind](term) for name, term in losses.terms.items()}, losses.info)

    monkeypatch.setattr(WorldModelPhase, "loss", worse)
    agent = Agent.from_config(CONFIG, ACTIONS)
    with fake_gpu() as crossings:
        trainer = build(agent)
        phase = trainer.phases["world_model"]
        _, batch = phase.draw()
        crossings.found.clear()
        try:
            phase.captured(batch)
        except Exception as error:
            assert type(error).__name__ in (
                "DataDependentOutputException",
                "DynamicOutputShapeException",
                "FakeTensorDeviceMismatchError",
                "MixedProduct",
            ), error
        else:
            assert crossings.found


def test_the_model_of_a_gpu_counts_products_traffic_and_kernels(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    model = importlib.import_module("gpu_model")
    counted = model.Counted()
    with fake_gpu(), torch.no_grad():
        layer, x = moved(torch.nn.Linear(8, 16)), torch.empty(4, 8, device=DEVICE)
        with torch.autocast(TYPE, dtype=BF16), counted:
            for _ in range(2):  # the weights are cast once
                layer(x).mT.unsqueeze(0)
    numbers = {"x": 4 * 8, "weight": 8 * 16, "bias": 16, "y": 4 * 16}
    cast, product = (2 + 4) * (2 * numbers["x"] + numbers["weight"] + numbers["bias"]), 2 * sum(numbers.values())
    assert counted.flops == 2 * 2 * 4 * 8 * 16
    assert counted.bytes == cast + 2 * product
    assert counted.kernels == 4 + 2
    monkeypatch.setattr(model, "RESULTS", tmp_path)
    assert model.measured("rem") == {}
    row = {"name": "tokenizer", "batch": 128, "full_batch": 128, "seconds": {"median": 0.0123}}
    rows = [row, row | {"batch": 64}, row | {"name": "encode", "batch": 8, "full_batch": 8}]
    (tmp_path / "gpu-some").mkdir()
    (tmp_path / "gpu-some" / "bench.json").write_text(
        json.dumps({"preset": "rem", "rows": rows, "epoch": {"seconds": {"total": 4.5}}})
    )
    assert model.measured("rem") == {"tokenizer": "12.3", "an epoch": "4.5e+03"}


def test_the_whole_model_of_a_gpu_at_tiny_sizes(monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    importlib.import_module("gpu_model").main("tiny")
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == [
        "| collect", "| encode 128 frames", "| tokenizer", "| world-model", "| actor-critic", "| an epoch",
    ]  # fmt: skip
