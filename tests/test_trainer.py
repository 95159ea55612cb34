import dataclasses
import functools
import time

import numpy as np
import pytest
import torch

from tokendream.agent.agent import Agent
from tokendream.config.config import Config
from tokendream.config.presets import TINY, preset
from tokendream.config.schedule import PARTS
from tokendream.config.training import PhaseConfig
from tokendream.data.batch import Segments
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute, Pace
from tokendream.envs.registry import make
from tokendream.errors import NonFiniteError
from tokendream.nn.losses import Losses
from tokendream.runfolder.snapshot import Snapshot
from tokendream.training import token_cache
from tokendream.training.token_cache import batches
from tokendream.training.trainer import Trainer

CPU = Compute(torch.device("cpu"), torch.float32)


def trainer(config: Config = TINY) -> Trainer:
    torch.manual_seed(config.seed)
    envs = make(config, config.collect.envs, evaluation=False)
    agent = Agent.from_config(config, envs.spaces)
    replay = ReplayBuffer.of(envs.spaces, config.collect.capacity, envs=config.collect.envs)
    return Trainer(config, agent, envs, replay, CPU)


def same(a, b) -> bool:
    """Equal to the bit, through every nesting."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def without_timing(record):
    return {k: v for k, v in record.items() if "seconds" not in k and "per_s" not in k}


def everything(t: Trainer):
    """All state but the clock."""
    snapshot = t.snapshot()
    state = {k: v for k, v in snapshot.state.items() if k not in ("seconds", "process_seconds", "timings")}
    rows = t.replay.export(0, t.replay.total)
    return [snapshot.tensors, state, {k: v.tolist() for k, v in rows.items()}]


def finish(t: Trainer) -> Trainer:
    """The same trainer, at its run's end."""
    while not t.finished:
        t.run_epoch()
        t.close_epoch()
    return t


@functools.cache
def uncut(config: Config) -> tuple[list, list]:
    """Everything at the end of a run that is never cut, and its records."""
    t, records = trainer(config), []
    while not t.finished:
        t.run_epoch()
        records.append(t.close_epoch())
    return everything(t), records


def cut_after(updates: int, config: Config) -> Trainer:
    """One that was stopped after so many updates of its phases."""
    t, countdown = trainer(config), iter(range(updates))
    while t.run_epoch(stop=lambda: next(countdown, None) is None):
        t.close_epoch()
    return t


def gone_on(cut: Trainer, snapshot: Snapshot) -> Trainer:
    """A fresh one that goes on from where another was cut, to the end; the other can go on after it."""
    with torch.random.fork_rng(devices=[]):
        resumed, oldest = trainer(cut.config), cut.replay.oldest
        resumed.replay.restore(cut.replay.export(oldest, cut.replay.total), oldest)
        resumed.restore(snapshot)
        return finish(resumed)


def test_phases_run_when_they_are_due():
    t = trainer()
    seen = []
    while not t.finished:
        assert t.run_epoch()
        seen.append({key.split("/")[0] for key in t.close_epoch() if key.endswith("/seconds")})
    assert seen == [
        {"collect", "tokenizer"},
        {"collect", "tokenizer", "world_model"},
        {"collect", "tokenizer", "world_model", "actor_critic"},
        {"collect", "tokenizer", "world_model", "actor_critic"},
    ]
    assert t.replay.total == 80


def test_each_phase_changes_its_own_part_only():
    t = trainer()
    t.epoch = 3
    for _ in range(30):
        t.update("collect")
    for part in PARTS:
        before = {k: v.clone() for k, v in t.agent.state_dict().items()}
        t.update(part)
        changed = {k.split(".")[0] for k, v in t.agent.state_dict().items() if not torch.equal(v, before[k])}
        assert changed == {part}


def published(**collect: object) -> Config:
    """The small preset with the published starts of segments and dreams."""
    return dataclasses.replace(
        TINY,
        world_model=dataclasses.replace(TINY.world_model, scored_starts=True),
        dream=dataclasses.replace(TINY.dream, context_starts=True),
        collect=dataclasses.replace(TINY.collect, **collect),
    )


def test_segments_and_dreams_start_where_the_published_ones_do():
    """Catch ends after 39 steps: two whole episodes and a bit, so that some rows are too early or too late."""
    t = trainer(published())
    t.epoch = 3
    for _ in range(90):
        t.update("collect")
    place = {row: (i, len(rows) - 1 - i) for rows in t.replay.episodes() for i, row in enumerate(rows)}
    behind, ahead = set(), set()
    for _ in range(40):
        segments, _ = t.phases["world_model"].draw()
        ahead |= {place[row][1] for row in segments.row[:, 0]}
        segments, _ = t.phases["actor_critic"].draw()
        behind |= {place[row][0] for row in segments.row[:, -1]}
    assert min(ahead) == 2
    assert min(behind) == 2


def test_memory_is_cleared_at_every_epoch_and_warmed_on_the_last_steps():
    """The game goes on in the second epoch (39 steps, 20 an epoch); with the field off its memory goes on too."""
    memories, burn_in = [], TINY.dream.burn_in
    for on in (False, True):
        t = trainer(published(forget_every_epoch=on))
        t.run_epoch()
        t.close_epoch()
        carried = t._collector.memory
        t.update("collect")
        C, V = t.agent.actor_critic, t.agent.tokenizer
        row = np.arange(20 - burn_in, 21)[None]
        codes, steps = V.codes(V.encode(t.replay.frames(row))), t.replay.steps(Segments(row, row >= 0))
        warmed = C.burn_in(codes[:, :-1], steps.action[:, :-1], steps.mask[:, :-1], t.config.dream)
        _, expected = C(codes[:, -1], warmed if on else carried)
        expected = C.absorb_action(steps.action[:, -1], expected)
        assert torch.allclose(t._collector.memory.h, expected.h, atol=1e-6)
        memories.append(expected.h)
    assert not torch.allclose(*memories, atol=1e-4)


@pytest.mark.parametrize(
    ("moments", "config"),
    [
        ((3, 21, 43, 49, 70), TINY),
        ((22, 47), published(forget_every_epoch=True)),
        ((3, 22, 46, 51, 80), preset("tiny-dictionary")),
    ],
    ids=["tiny", "published", "dictionary"],
)
def test_going_on_from_a_snapshot_is_going_on(moments, config):
    """Stop after any update, save, build everything again, restore: all that follows is the same to the bit."""
    end, records = uncut(config)
    cut, cut_records, before = trainer(config), [], 0
    for moment in moments:
        countdown = iter(range(moment - before))
        while cut.run_epoch(stop=lambda updates=countdown: next(updates, None) is None):
            cut_records.append(cut.close_epoch())
        before = moment
        rows, snapshot = cut.replay.export(0, cut.replay.total), cut.snapshot()
        with torch.random.fork_rng(devices=[]):  # the cut one goes on
            resumed, all_records = trainer(config), cut_records.copy()
            torch.manual_seed(12345)  # whatever the new process did before
            resumed.replay.restore(rows, 0)
            resumed.restore(snapshot)
            while not resumed.finished:
                resumed.run_epoch()
                all_records.append(resumed.close_epoch())
            assert same(end, everything(resumed))
            assert [without_timing(r) for r in records] == [without_timing(r) for r in all_records]


def test_the_same_seed_gives_the_same_run_and_another_does_not():
    def run(config):
        t = trainer(config)
        for _ in range(3):
            t.run_epoch()
            t.close_epoch()
        return everything(t)

    first, second, other = map(run, (TINY, TINY, dataclasses.replace(TINY, seed=1)))
    assert same(first, second)
    assert not same(first[0]["agent"], other[0]["agent"])


def test_a_non_finite_loss_stops_the_run_and_is_named():
    t = trainer()
    t.run_epoch()
    t.close_epoch()
    with torch.no_grad():
        t.agent.world_model.action_embedding.weight[:] = float("nan")
    with pytest.raises(NonFiniteError, match="epoch 2, world_model, update 1: loss"):
        t.run_epoch()


def loss_of(t: Trainer, part: str) -> Losses:
    _, batch = t.phases[part].draw()
    return t.phases[part].loss(batch)


def test_the_dream_sends_no_gradient_into_tokenizer_and_world_model():
    t = trainer()
    t.epoch = 3
    for _ in range(30):
        t.update("collect")
    loss_of(t, "actor_critic").total.backward()
    assert all(p.grad is None for p in t.agent.tokenizer.parameters())
    assert all(p.grad is None for p in t.agent.world_model.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in t.agent.actor_critic.parameters())


def test_the_world_model_sends_no_gradient_into_the_codebook():
    t = trainer()
    for _ in range(30):
        t.update("collect")
    loss_of(t, "world_model").total.backward()
    assert all(p.grad is None for p in t.agent.tokenizer.parameters())


def test_tokens_are_encoded_once_and_again_after_the_tokenizer_changed():
    t = trainer()
    for _ in range(30):
        t.update("collect")
    encoded = []
    original = t.agent.tokenizer.encode
    t.agent.tokenizer.encode = lambda frame: encoded.append(len(frame)) or original(frame)
    row, mask = np.array([[3, 4, 5], [4, 5, 5]]), np.array([[True, True, True], [True, True, False]])
    tokens = t.shared.cache.tokens(row, mask)
    assert torch.equal(tokens[0], original(t.replay.frames(row[0])))
    assert torch.equal(tokens[1, :2], tokens[0, 1:])
    t.shared.cache.tokens(row, mask)
    assert encoded == [3]
    t.shared.cache.forget()
    t.shared.cache.tokens(row, mask)
    assert encoded == [3, 3]
    t.shared.cache.refresh()
    assert encoded == [3, 3, 27]


def test_a_gpu_encodes_batches_of_one_size_only():
    row = np.arange(5, 205)
    assert [(list(some), list(batch)) for some, batch in batches(row, torch.device("cpu"))] == [(list(row), list(row))]
    whole, rest = batches(row, torch.device("cuda"))
    assert [len(batch) for _, batch in (whole, rest)] == [128, 128]
    assert np.concatenate((whole[0], rest[0])).tolist() == row.tolist()
    assert rest[1].tolist() == [*row[128:], *row[128:184]]
    assert batches(row[:0], torch.device("cuda")) == batches(row[:0], torch.device("cpu")) == []


def test_batches_of_one_size_give_the_same_tokens(monkeypatch):
    t = trainer()
    for _ in range(30):
        t.update("collect")
    cache, row = t.shared.cache, np.arange(30)[None]
    expected = cache.tokens(row, row >= 0)
    cache.forget()
    monkeypatch.setattr(token_cache, "batches", lambda row, device: batches(row, torch.device("cuda")))
    assert torch.equal(cache.tokens(row, row >= 0), expected)


@pytest.mark.parametrize("name", ["tiny", "tiny-dictionary"])
def test_encoding_every_frame_once_changes_no_result(name):
    plain = dataclasses.replace(preset(name), training=dataclasses.replace(TINY.training, cache_tokens=False))
    assert same(uncut(preset(name))[0], everything(finish(trainer(plain))))


def collected(n: int, logits: list[float], **settings) -> np.ndarray:
    """n actions of an agent whose logits are these whatever it sees, collected by a config with these settings."""
    config = dataclasses.replace(TINY, collect=dataclasses.replace(TINY.collect, capacity=n, envs=4, **settings))
    t = trainer(config)
    with torch.no_grad():
        t.agent.actor_critic.actor.weight.zero_()
        t.agent.actor_critic.actor.bias.copy_(torch.tensor(logits))
    for _ in range(n // 4):
        t.update("collect")
    return t.replay.export(0, n)["action"]


@pytest.mark.parametrize(("temperature", "epsilon"), [(0.5, 0.0), (0.5, 0.3), (1.0, 0.0), (2.0, 0.3)])
def test_experience_is_collected_at_its_temperature(temperature, epsilon):
    """Actions come as (1 - ε) softmax(logits / temperature) + ε / A says, and as no other temperature would have it."""
    n, logits = 400, [0.0, 1.5, -1.0]
    counts = np.bincount(collected(n, logits, temperature=temperature, epsilon=epsilon), minlength=3)

    def worst(temperature: float) -> float:
        """Of the three counts, the furthest from what is expected, in standard deviations of a binomial."""
        p = (1 - epsilon) * torch.softmax(torch.tensor(logits) / temperature, -1).numpy() + epsilon / 3
        return float((np.abs(counts - n * p) / np.sqrt(n * p * (1 - p))).max())

    assert worst(temperature) < 4
    for other in {0.5, 1.0, 2.0} - {temperature}:
        assert worst(other) > 4


def test_experience_is_collected_greedily_at_a_temperature_near_zero():
    """Beside the best action only ε's uniform ones: a third of them each."""
    logits = [0.0, 0.2, -1.0]
    assert (collected(100, logits, temperature=1e-3, epsilon=0.0) == 1).all()
    others = np.bincount(collected(300, logits, temperature=1e-3, epsilon=0.3), minlength=3)[[0, 2]]
    assert (np.abs(others - 30) < 4 * np.sqrt(300 * 0.1 * 0.9)).all()


def test_a_phase_can_end_before_training_does():
    config = dataclasses.replace(
        TINY,
        training=dataclasses.replace(TINY.training, tokenizer=PhaseConfig(1, 2, 4, 1e-3, 0.01, 10.0, last_epoch=1)),
    )
    t = trainer(config)
    t.run_epoch()
    assert "tokenizer/seconds" in t.close_epoch()
    t.run_epoch()
    assert "tokenizer/seconds" not in t.close_epoch()


def test_the_host_runs_at_most_two_updates_ahead_of_a_gpu(monkeypatch):
    done: list[str] = []

    class Event:
        made = 0

        def __init__(self):
            Event.made += 1
            self.number = Event.made

        def record(self, stream):
            assert stream == "the current one"
            done.append(f"recorded {self.number}")

        def synchronize(self):
            done.append(f"waited for {self.number}")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the current one")
    pace = Pace(torch.device("cuda"))
    for _ in range(4):
        pace.keep()
    assert done == [*(f"recorded {i}" for i in (1, 2, 3)), "waited for 1", "recorded 4", "waited for 2"]
    Pace(torch.device("cpu")).keep()
    assert Event.made == 4


def test_waiting_for_the_device_is_on_the_phase_s_account():
    class Slow:
        def __int__(self):
            time.sleep(0.1)
            return -1

    t = trainer()
    update = t.phases["tokenizer"].update

    def handed_over(number):
        figures = update(number)
        t._guard._first = Slow()
        return figures

    t.phases["tokenizer"].update = handed_over
    t.run_epoch()
    record = t.close_epoch()
    assert record["tokenizer/seconds"] >= 0.1
    assert record["seconds"] >= record["tokenizer/seconds"]
    assert record["tokenizer/updates_per_s"] == pytest.approx(t.schedule[1].updates / record["tokenizer/seconds"])
