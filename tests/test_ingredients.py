"""REM's successors' ingredients together: with all of them on, a run goes on to the bit; a frozen V costs nothing."""

import dataclasses
import functools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from test_any_spaces import trainer_of
from test_trainer import everything, finish, same, trainer, without_timing

from tokendream.agent.agent import Agent
from tokendream.config.config import vary
from tokendream.config.presets import REM, TINY
from tokendream.dream.imagine import Rollout
from tokendream.dream.objective import actor_critic_loss
from tokendream.dream.return_scale import ReturnScale
from tokendream.training.trainer import Trainer

EPOCHS = 4

ROOT = Path(__file__).parents[1]


OFF = {
    "world_model.positions": "running", "world_model.reward_head": "sign", "actor_critic.value_head": "scalar",
    "world_model.outcome_from": "action", "world_model.head": "relu", "actor_critic.trunk": "silu",
    "tokenizer.kind": "vq", "training.tokenizer.last_epoch": 1_000_000, "world_model.backbone": "retnet",
    "dream.context_blocks": 1,
}  # fmt: skip
"""What REM has where an ingredient is off, but for those that are False or 0."""


def frozen(config=TINY):
    """V is trained in the first two epochs alone."""
    phase = dataclasses.replace(config.training.tokenizer, last_epoch=2)
    return vary(config, "training", tokenizer=phase)


def all_on():
    """Every ingredient that goes together with the others, at the smallest preset's sizes."""
    config = vary(
        frozen(), "world_model", shortest_window=2.0, longest_window=4.0, positions="grid", slot_embedding=True,
        copy_or_sample=True, outcome_from="prediction", by_loss=0.5, reward_head="symlog", head="norm",
        scored_starts=True, events=True, ensemble=4, logits_from_codes=True,
    )  # fmt: skip
    config = vary(config, "actor_critic", separate=True, trunk="norm", value_head="symlog")
    world_model = dataclasses.replace(config.training.world_model, optimiser="muon")
    actor_critic = dataclasses.replace(config.training.actor_critic, newest=0.5)
    config = vary(config, "training", world_model=world_model, actor_critic=actor_critic)
    return vary(config, "dream", scale_by_quantiles=True, context_starts=True, curiosity=1.0)


def all_on_attention():
    """The same on attention, which has no windows, and FSQ; dreams begin with a longer memory."""
    config = vary(all_on(), "world_model", backbone="post-norm", shortest_window=0.0, longest_window=0.0)
    return vary(vary(config, "tokenizer", kind="fsq"), "dream", context_blocks=2)


def fields(config):
    """Every field by its dotted name."""
    found = {}
    for name, value in dataclasses.asdict(config).items():
        inner = {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
        for outer, v in inner.items():
            found |= {f"{outer}.{k}": x for k, x in v.items()} if isinstance(v, dict) else {outer: v}
    return found


def ingredients():
    """The fields of the table of docs/beyond.md, each with its source."""
    page = (ROOT / "docs" / "beyond.md").read_text()
    for row, _, source in re.findall(r"^\| [\w ]+: (.*?) \| (.*?) \| (.*?) \|", page, re.MULTILINE):
        room = ""
        for name in re.findall(r"`([\w.]+)`", row):
            room = name.rpartition(".")[0] or room
            yield name if "." in name else f"{room}.{name}", source


def test_all_of_them_are_on_where_all_are_and_off_in_rem():
    """But for what only Atari's own rewards have."""
    rem, tiny = fields(REM), fields(TINY)
    every = (fields(all_on()), fields(all_on_attention()))
    names = {name for name, _ in ingredients()}
    assert len(names) == 21
    assert OFF.keys() < names
    for name in names:
        assert rem[name] == OFF.get(name, 0), name
        if name != "env.atari.sign_rewards":
            assert any(on[name] != tiny[name] for on in every), name


def whole(t: Trainer) -> tuple[list, list]:
    records = []
    while not t.finished:
        assert t.run_epoch()
        records.append(without_timing(t.close_epoch()))
    return everything(t), records


@functools.cache
def straight(every) -> tuple[list, list]:
    return whole(trainer(every()))


@pytest.mark.parametrize("moment", [23, 47, 71, 90])
@pytest.mark.parametrize("every", [all_on, all_on_attention])
def test_with_all_of_them_a_run_goes_on_to_the_bit(every, moment):
    cut, records, countdown = trainer(every()), [], iter(range(moment))
    while cut.run_epoch(stop=lambda: next(countdown, None) is None):
        records.append(without_timing(cut.close_epoch()))
    snapshot = cut.snapshot()
    resumed = trainer(every())
    torch.manual_seed(12345)
    resumed.replay.restore(cut.replay.export(0, cut.replay.total), 0)
    spent = snapshot.state.pop("process_seconds") if moment == 47 else None  # older versions did not keep it
    resumed.restore(snapshot)
    assert resumed.process_seconds is None if spent else resumed.process_seconds >= snapshot.state["process_seconds"]
    end, more = whole(resumed)
    uncut, uncut_records = straight(every)
    assert same(uncut, end)
    assert uncut_records == records + more
    assert all(math.isfinite(x) for record in records + more for x in record.values())


def test_with_all_of_them_a_robot_goes_on_to_the_bit():
    """A camera, a pose and a mode are seen, two numbers decided."""
    config = vary(vary(all_on(), "env", id="gym:AnyRobot-v0"), "collect", steps=14, capacity=40)
    straight, cut, resumed = (trainer_of(config) for _ in range(3))
    torch.manual_seed(0)
    finish(straight)
    torch.manual_seed(0)
    for _ in range(3):
        cut.run_epoch()
        cut.close_epoch()
    snapshot, oldest = cut.snapshot(), cut.replay.oldest
    resumed.replay.restore(cut.replay.export(oldest, cut.replay.total), oldest)
    assert resumed.restore(snapshot) is None
    finish(resumed)
    assert same(straight.snapshot().tensors, resumed.snapshot().tensors)


def test_a_frozen_tokenizer_costs_a_new_frame_s_encoding_and_nothing_else(monkeypatch):
    """After its last epoch V has no loss, LPIPS and decoder do not run, and each new frame is encoded once."""
    t = trainer(frozen())
    for _ in range(2):
        t.run_epoch()
        t.close_epoch()
    V = t.agent.tokenizer
    before = {name: x.clone() for name, x in V.state_dict().items()}

    def never(*args, **kwargs):
        raise AssertionError("a frozen tokenizer computes no more than tokens")

    for name in ("loss", "decode"):
        monkeypatch.setattr(V, name, never)
    monkeypatch.setattr(V.decoder, "forward", never)
    encoded, encode = [], V.encode
    monkeypatch.setattr(V, "encode", lambda frame: encoded.append(len(frame)) or encode(frame))
    known = int(np.sum(t.shared.cache._row_of >= 0))
    while not t.finished:
        t.run_epoch()
        t.close_epoch()
    acting = 40  # the collector looks at each new frame itself
    assert sum(encoded) <= t.replay.total - known + acting
    assert all(torch.equal(x, before[name]) for name, x in V.state_dict().items())


def test_c_learns_what_pays_with_bins_quantiles_and_a_critic_of_its_own():
    """Each of three frames has one action that pays 300; entropy weight and learning rate as where rewards are 1."""
    config, B, T = all_on(), 16, 3
    C = Agent.from_config(config, 3).actor_critic
    frames, scale = torch.randn(3, 16, 16), ReturnScale(B * (T - 1), torch.device("cpu"))
    optimiser = torch.optim.AdamW(C.parameters(), lr=3e-3)
    settings = dataclasses.replace(config.dream, discount=0.0, lam=0.0, entropy_weight=0.01)
    for _ in range(80):
        frame, state, kept = torch.randint(3, (B, T)), C.initial_state(B), []
        for t in range(T):
            output, state = C(frames[frame[:, t]], state)
            action = C.actions.sample(output.logits.detach(), None)
            state = C.absorb_action(action, state)
            paid = 300.0 * (action == frame[:, t]).float()
            kept.append((frame[:, t, None], output.logits, output.value, action, paid, action < 0, output.critic))
        rollout = Rollout(*(torch.stack(column, dim=1) for column in zip(*kept, strict=True)))
        losses = actor_critic_loss(rollout, C.actions, settings, C.bins, scale)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
    output, _ = C(frames, C.initial_state(3))
    assert output.logits.argmax(-1).tolist() == [0, 1, 2]
    assert 30 < float(output.value.detach().mean()) < 310  # on its way there, in symlog space


def test_an_ingredient_s_file_is_short():
    """Not the file that it is a line *in*: M, C, imagination, the Transformer that both attentions share."""
    rows = re.findall(r"^\| [\w ]+: `.*", (ROOT / "docs" / "beyond.md").read_text(), re.MULTILINE)
    files = {file for row in rows for file in re.findall(r"(?<!in )`(\w+/\w+\.py)", row)}
    assert len(rows) >= 17
    assert len(files) >= 12
    assert {f for f in files if len((ROOT / "tokendream" / f).read_text().splitlines()) >= 150} == set()
