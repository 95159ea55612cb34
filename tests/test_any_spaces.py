"""Observations and actions of every Gymnasium space: what they are read as, and that agents train on them."""

import dataclasses
from pathlib import Path

import any_spaces
import numpy as np
import pytest
import torch
from any_spaces import IMAGE, KINDS
from gymnasium import spaces
from playing import Client, serving
from test_trainer import finish

from tokendream import errors, load
from tokendream.agent.agent import Agent
from tokendream.cli.flags import parse_train
from tokendream.cli.main import main
from tokendream.config.config import vary
from tokendream.config.env import EnvConfig
from tokendream.config.presets import TINY, preset
from tokendream.data.replay import ReplayBuffer
from tokendream.device import Compute
from tokendream.envs.choices import BINS
from tokendream.envs.observe import readers
from tokendream.envs.registry import make
from tokendream.envs.vector import EnvError
from tokendream.errors import ConfigError
from tokendream.nn.hl_gauss import symlog
from tokendream.play.library import episodes
from tokendream.play.session import Session
from tokendream.play.view import pack
from tokendream.runfolder import agent_file
from tokendream.runfolder.agent_file import SavedAgent
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.spaces.actions import ActionSpace
from tokendream.spaces.layout import Layout, Part, image
from tokendream.stop import EXIT_CODES
from tokendream.tokenizers.build import build
from tokendream.tokenizers.cells import CellTokenizer
from tokendream.tokenizers.protocol import Fitted
from tokendream.training.trainer import Trainer

INF = np.inf

CPU = Compute.resolve("cpu", "float32")


@pytest.fixture(autouse=True)
def _fresh():
    errors.once.cache_clear()


def read(space, config=None, first=None):
    layout, _ = readers("X-v0", space, config or EnvConfig(id="X-v0"), lambda: first)
    return [(part.name, part.modality, part.shape) for part in layout.parts]


@pytest.mark.parametrize(
    ("space", "modality", "shape"),
    [
        (spaces.Box(-INF, INF, (5,), np.float64), "vector", (5,)),
        (spaces.Box(-1, 1, (3, 2), np.float32), "vector", (6,)),
        (spaces.Box(0, 9, (4,), np.int32), "vector", (4,)),
        (spaces.Box(-INF, INF, (), np.float32), "vector", (1,)),
        (spaces.Box(-INF, INF, (80, 3), np.float32), "vector", (240,)),
        (IMAGE, "image", (3, 64, 64)),
        (spaces.Box(0, 255, (3, 40, 40), np.uint8), "image", (3, 64, 64)),
        (spaces.Box(0, 255, (84, 84), np.uint8), "image", (3, 64, 64)),
        (spaces.Box(0, 255, (4, 84, 84), np.uint8), "image", (3, 64, 64)),
        (spaces.Box(0, 1, (64, 64, 3), np.float32), "image", (3, 64, 64)),
        (spaces.Box(-1, 1, (64, 64, 1), np.float64), "image", (3, 64, 64)),
        (spaces.Box(0, 5, (6, 6), np.int64), "map", (1, 6, 6)),
        (spaces.Box(-2, 5, (6, 8, 3), np.int8), "map", (3, 6, 8)),
        (spaces.Box(0, 1, (10, 10, 7), bool), "map", (7, 10, 10)),
        (spaces.Box(0, 1, (2, 9, 9), np.int8), "map", (2, 9, 9)),
        (spaces.MultiBinary((4, 4)), "map", (1, 4, 4)),
        (spaces.MultiDiscrete(np.full((5, 4), 6)), "map", (1, 5, 4)),
        (spaces.Discrete(7, start=-2), "categorical", (1,)),
        (spaces.MultiDiscrete([3, 9]), "categorical", (2,)),
        (spaces.MultiBinary(5), "categorical", (5,)),
    ],
)
def test_what_a_space_is_read_as(space, modality, shape):
    assert read(space) == [("observation", modality, shape)]


def test_parts_of_nested_spaces_have_dotted_names_and_can_be_chosen():
    space = spaces.Dict({"a": spaces.Tuple((spaces.Discrete(2), IMAGE)), "b": spaces.Box(0, 1, (3,)),
                         "left": IMAGE, "say": spaces.Text(3)})  # fmt: skip
    assert [name for name, *_ in read(space)] == ["a.0", "a.1", "b", "left"]
    assert [name for name, *_ in read(space, EnvConfig(id="X-v0", keys="b, a.1"))] == ["a.1", "b"]
    with pytest.raises(EnvError, match=r"no part 'lefft' \(env.keys\); nearest: left"):
        read(space, EnvConfig(id="X-v0", keys="lefft"))
    space["many"] = spaces.Sequence(spaces.Discrete(2))  # cannot be read, and need not be
    assert read(space, EnvConfig(id="X-v0", keys="b")) == [("b", "vector", (3,))]


def test_a_small_picture_with_small_numbers_is_a_map_and_says_so(capsys):
    space, seen = spaces.Box(0, 255, (7, 7, 3), np.uint8), np.full((7, 7, 3), 10, np.uint8)
    assert read(space, first=seen) == [("observation", "map", (3, 7, 7))]
    assert "read as a map of 3 fields; --env.read-as image" in capsys.readouterr().err
    assert read(space, first=seen * 20)[0][1] == "image"
    assert read(space, EnvConfig(id="X-v0", read_as="image"))[0][1] == "image"
    assert read(space, EnvConfig(id="X-v0", read_as="vector")) == [("observation", "vector", (147,))]


@pytest.mark.parametrize(
    "space", [spaces.Box(0, 1, (64, 64), np.float32), spaces.Box(0, 5, (2, 3), np.int64), spaces.Box(-1, 1, (4,))]
)
def test_axes_of_length_1_are_taken_and_others_are_not(space):
    _, (reader,) = readers("X-v0", space, EnvConfig(id="X-v0"), lambda: None)
    seen = space.sample()
    assert (reader.read(seen[None], "") == reader.read(seen, "")).all()
    with pytest.raises(EnvError, match="expected an observation of shape"):
        reader.read(seen.reshape(-1, 2), "")


def test_the_brightest_of_a_picture_of_bytes_is_what_its_space_says():
    space = spaces.Box(0, 1, (64, 64, 3), np.uint8)
    _, (reader,) = readers("X-v0", space, EnvConfig(id="X-v0"), lambda: None)
    assert reader.read(space.high, "").max() == 255


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (spaces.Dict({"v": spaces.Box(0, 1, (0,))}), "v has no values, its shape is (0,): leave it out with"),
        (
            spaces.Box(0, 1, (10**6,), np.float32),
            "at most 700 values beside images, but it has 1,000,000, most of them "
            "in observation: choose parts with --env.keys",
        ),
        (
            spaces.Box(0, 9, (90, 90), np.int8),
            "at most 4096 cells beside images, but it has 8,100, most of them in "
            "observation: choose parts with --env.keys, or --env.read-as image",
        ),
        (spaces.Dict({"a.b": IMAGE, "a": spaces.Dict({"b": spaces.Discrete(2)})}), "two parts are called a.b"),
        (spaces.Discrete(10**9), "has 1000000000 values, at most 4096"),
        (spaces.Dict({"s": spaces.Sequence(spaces.Discrete(2))}), "s is a Sequence, which cannot be read: leave it"),
        (spaces.Text(4), "nothing in its observation space can be read"),
    ],
)
def test_what_cannot_be_read_is_named_before_anything_is_built(space, said):
    with pytest.raises(EnvError) as caught:
        read(space)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ("--env.read-as image" in str(caught.value)) == (space.shape == (90, 90))


def test_a_joint_action_is_the_number_of_its_components():
    actions = ActionSpace((3, 51, 2))
    every = torch.arange(actions.n)
    parts = actions.components(every)
    assert torch.equal(actions.action(parts), every)
    assert parts.unique(dim=0).shape == (306, 3)
    assert actions.embedding(8)(every).shape == (306, 3, 8)


def test_a_joint_policy_is_the_product_of_its_components():
    actions, logits = ActionSpace((3, 4)), torch.randn(5, 7)
    every = torch.arange(12).expand(5, 12)
    policy = actions.policy(logits[:, None].expand(5, 12, 7))
    p = policy.log_prob(every).exp()
    torch.testing.assert_close(p.sum(-1), torch.ones(5))
    torch.testing.assert_close(policy.entropy()[:, 0], torch.special.entr(p).sum(-1))
    n = 20_000
    drawn = actions.sample(logits[:1].expand(n, -1), torch.Generator().manual_seed(0), epsilon=0.3)
    expected = 0.7 * p[0] + 0.3 / 12
    assert (drawn.bincount(minlength=12) / n - expected).abs().max() < 0.015


LAYOUT = Layout((image(16, "eye"), Part("pose", "vector", (3,)), Part("kind", "categorical", (2,), (4, 3)),
                 Part("board", "map", (2, 4, 6))))  # fmt: skip


def observations(n: int, rng: np.random.Generator) -> np.ndarray:
    return np.stack([
        LAYOUT.pack({
            "eye": rng.integers(256, size=(3, 16, 16), dtype=np.uint8), "pose": rng.normal(size=3) * 10,
            "kind": rng.integers(3, size=2), "board": rng.integers(3, size=(2, 4, 6)),
        })
        for _ in range(n)
    ])  # fmt: skip


def test_a_frame_holds_its_parts_to_the_bit(rng):
    frame = observations(4, rng)
    assert frame.shape == (4, *LAYOUT.frame_shape)
    parts = LAYOUT.unpack(frame)
    assert np.array_equal(np.stack([LAYOUT.pack({k: v[i] for k, v in parts.items()}) for i in range(4)]), frame)
    split = LAYOUT.split(torch.from_numpy(frame)[None])
    for part, tensor in zip(LAYOUT.parts, split, strict=True):
        assert np.array_equal(tensor[0].numpy(), parts[part.name])
    assert torch.equal(LAYOUT.join(split)[0], torch.from_numpy(frame))


@pytest.mark.parametrize("n", [1, 2])
def test_numbers_lie_at_any_byte_of_a_frame(n):
    """MiniGrid: a direction and a map of 147 bytes, in a batch of one as in any other."""
    layout = Layout((Part("map", "map", (3, 7, 7)), Part("direction", "categorical", (1,), (4,))))
    frame = np.stack([layout.pack({"map": np.ones((3, 7, 7)), "direction": np.array([i + 2])}) for i in range(n)])
    board, direction = layout.split(torch.from_numpy(frame))
    assert board.shape == (n, 3, 7, 7)
    assert direction.flatten().tolist() == [2, 3][:n]
    layout = Layout(layout.parts[::-1])
    assert layout.split(torch.from_numpy(frame[:, ::-1].copy()))[0].shape == (n, 1)


def test_tokens_of_all_parts_are_one_observation(rng):
    V, slots = build(dataclasses.replace(TINY.tokenizer, kind="dictionary", map_cells=2, codebook_size=32), LAYOUT)
    frame = torch.from_numpy(observations(6, rng))
    V.fit(frame)
    tokens = V.encode(frame)
    assert tokens.shape == (6, len(slots)) == (6, 1 + 3 + 2 + 6)
    assert all((tokens[:, i] < slot.vocabulary).all() for i, slot in enumerate(slots))
    assert V.codes(tokens).shape == (6, len(slots), V.code_width)
    again = V.decode(tokens)
    assert torch.equal(V.encode(again), tokens)
    assert torch.equal(V.decode(tokens.view(2, 3, -1)).flatten(0, 1), again)
    known, shown = LAYOUT.unpack(frame.numpy()), LAYOUT.unpack(again.numpy())
    assert np.array_equal(known["kind"], shown["kind"])
    assert np.allclose(symlog(torch.tensor(known["pose"])), symlog(torch.tensor(shown["pose"])), atol=0.08)


def test_a_book_of_cells_is_exact_until_it_is_full():
    V = CellTokenizer(Part("m", "map", (2, 4, 4)), 8, 16)
    maps = torch.randint(2, (10, 2, 4, 4), dtype=torch.uint8)
    assert V.fit(maps).changed == 3  # of 4 different cells, zeros are known
    assert torch.equal(V.decode(V.encode(maps)), maps)
    assert V.fit(maps).changed == 0
    small = CellTokenizer(Part("m", "map", (2, 4, 4)), 2, 16)
    small.fit(maps[:1])
    assert small.encode(maps).max() < 2
    with pytest.raises(AssertionError, match="4x4 cells does not divide into 3x3"):
        CellTokenizer(Part("m", "map", (2, 4, 4)), 8, 16, 3)


def trainer_of(config):
    envs = make(config, 1, evaluation=False)
    torch.manual_seed(0)
    agent = Agent.from_config(config, envs.spaces)
    return Trainer(config, agent, envs, ReplayBuffer.of(envs.spaces, config.collect.capacity), CPU)


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_trains_on_any_space_and_goes_on_to_the_bit(kind, tmp_path):
    """Two epochs, a checkpoint in the middle of a game and two more, against four without it."""
    config = vary(vary(TINY, "env", id=f"gym:Any{kind}-v0"), "collect", steps=14, capacity=40)
    whole = trainer_of(config)
    for _ in range(2):
        whole.run_epoch()
        whole.close_epoch()
    store = Checkpoints(tmp_path)
    store.save(2, whole.snapshot(), whole.replay)
    finish(whole)
    resumed = trainer_of(config)
    epoch, snapshot = store.load()
    store.load_replay(epoch, resumed.replay)
    assert resumed.restore(snapshot) is None
    finish(resumed)
    ends = [trainer.agent.state_dict() for trainer in (whole, resumed)]
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
    rows = [trainer.replay.export(trainer.replay.oldest, trainer.replay.total) for trainer in (whole, resumed)]
    assert all(np.array_equal(column, rows[1][name]) for name, column in rows[0].items())


def test_a_robot_passes_through_every_command(tmp_path, monkeypatch, capsys):
    """A camera, a pose and a mode seen, two numbers decided."""
    run, env, steps = str(tmp_path / "run"), "any_spaces:AnyRobot-v0", ("--collect.steps", "20")
    assert main(["envs", "check", env, "--preset", "tiny", "--steps", "40"]) == 0
    cut = ["--time-limit", "0"]
    assert main(["train", "tiny", "--env", env, "--run-dir", run, *steps, *cut]) == EXIT_CODES["time limit"]
    assert main(["train", "--resume", run]) == 0
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    out = ["--preset", "tiny", "--cores", "1", "--out", str(tmp_path / "sweep")]
    assert main(["sweep", "--games", env, "--seeds", "1", *steps, "--evaluation.episodes", "1", *out]) == 0
    assert "1 of 1 runs are finished" in capsys.readouterr().out
    assert main(["eval", run, "--episodes", "2", "--no-films"]) == 0
    assert main(["diagnose", run, "--steps", "30"]) == 0
    assert main(["dream", run, "--out", str(tmp_path / "dream.gif"), "--at", "20", "--length", "4"]) == 0
    assert main(["export", run, "--out", str(tmp_path / "robot.safetensors")]) == 0
    assert main(["report", run]) == 0
    agent = load(tmp_path / "robot.safetensors")
    score, frames = agent.play_game(seed=1)
    assert np.isfinite(score)
    assert frames.shape[1:] == agent.spaces.observation.frame_shape
    session = Session(agent, episodes(tmp_path / "run", tmp_path / "none", agent, print))
    for mode in ("agent-both", "person-game", "person-dream", "replay-both"):
        session.set_mode(mode)
        session.hold(["action[0] +"] if "person" in mode else [])
        session.advance()
        pack(session.view())
    with serving(tmp_path / "run", tmp_path / "none") as server:
        client = Client(server)
        client.say("mode", "person-dream")
        client.until(lambda client: client.state.get("mode") == "person-dream" and client.picture["panels"])
        client.close()
    assert session.buttons.layout.choose(["action[0] -", "action[1] +"]) == 0 + 50 * BINS


def test_an_exported_agent_of_features_needs_no_tokenizer_s_weights(tmp_path):
    config = vary(preset("cpu"), "env", id="gym:AnyVector-v0")
    agent = Agent.from_config(config, make(config, 1, evaluation=False).spaces)
    agent_file.write(tmp_path / "a.safetensors", SavedAgent(config, 1, agent.state_dict()))
    assert load(tmp_path / "a.safetensors").agent.block.K == 5


def test_a_table_of_m_s_own_tells_the_tokens_of_parts_apart():
    config = vary(vary(TINY, "env", id="gym:AnyNested-v0"), "world_model", own_embedding=True)
    M = Agent.from_config(config, make(config, 1, evaluation=False).spaces).world_model
    tokens = torch.zeros(1, M.block.K, dtype=torch.int64)
    table = M.token_embedding(tokens)[0]
    starts = [part.where.start for part in M.block.parts]
    assert len(table[starts].unique(dim=0)) == len(starts) == 3
    assert torch.equal(table[0], table[M.block.parts[0].where.stop - 1])


def test_ablations_of_images_are_refused_elsewhere():
    config = vary(TINY, "env", id="gym:AnyVector-v0")
    envs = make(config, 1, evaluation=False)
    with pytest.raises(ConfigError, match=r"actor_critic\.sees"):
        Agent.from_config(vary(config, "actor_critic", sees="pixels"), envs.spaces)


@pytest.mark.parametrize("own_embedding", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_token_by_token_a_frame_is_dreamed_from_what_training_says_of_it(kind, own_embedding):
    config = vary(TINY, "world_model", decoding="token", own_embedding=own_embedding, slot_embedding=True)
    envs = make(vary(config, "env", id=f"gym:Any{kind}-v0"), 1, evaluation=False)
    agent, frame = Agent.from_config(config, envs.spaces).eval(), torch.from_numpy(envs.reset([0]).copy())
    V, M, action = agent.tokenizer, agent.world_model, torch.zeros(1, dtype=torch.int64)
    if isinstance(V, Fitted):
        V.fit(frame)
    tokens = V.encode(frame)
    start = M.initial_state(1)
    outcome, dreamed, _ = M.imagine(V.codes(tokens), tokens, action, start, embed=V.codes)
    both = torch.stack((tokens, outcome.tokens), dim=1)
    trained, _ = M(V.codes(both), both, action.expand(1, 2), start, slice(0, -1))
    assert torch.allclose(dreamed.next_frame, trained.next_frame, atol=1e-4)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.array([0.0, np.nan, 0.0, 0.0, 0.0]), "step 1: expected finite numbers, but got nan"),
        (np.zeros(4), "step 1: expected an observation of shape (5,), but got one of (4,)"),
        ("text", "step 1: expected numbers, but got 'text'"),
    ],
)
def test_what_does_not_lie_in_its_space_names_the_step(value, said, monkeypatch):
    envs = make(vary(TINY, "env", id="gym:AnyVector-v0"), 1, evaluation=False)
    envs.reset([0])
    monkeypatch.setattr(any_spaces.Worlds, "look", lambda self, space: value)
    with pytest.raises(EnvError) as caught:
        envs.step(np.array([0]))
    assert str(caught.value).startswith(f"AnyVector-v0, {said}")


def test_a_category_outside_its_space_names_the_field(monkeypatch):
    envs = make(vary(TINY, "env", id="gym:AnyBits-v0"), 1, evaluation=False)
    envs.reset([0])
    monkeypatch.setattr(any_spaces.Worlds, "look", lambda self, space: np.array([0, 1, 0, 2, 0, 0]))
    with pytest.raises(EnvError, match=r"step 1: expected field 3 in 0..1, but got 2"):
        envs.step(np.array([0]))


@pytest.mark.parametrize(("kind", "named"), [("Vector", "control"), ("Map", "grid"), ("Robot", "cpu")])
def test_the_preset_follows_what_is_seen_unless_it_is_named(kind, named, capsys):
    flags = ["--env", f"any_spaces:Any{kind}-v0"]
    assert parse_train(flags).config.preset == named
    assert capsys.readouterr().out.count("preset ") == 1
    assert parse_train([*flags, "--env.size", "40"]).config.preset == named
    assert parse_train(["tiny", *flags]).config.preset == "tiny"
