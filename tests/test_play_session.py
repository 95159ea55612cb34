"""The session: every mode shows what it says, going back is exact, and nothing that can be asked for breaks it."""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from playing import load, make_run, tick

from tokendream.agent.agent import Agent
from tokendream.config.config import vary
from tokendream.data.batch import Steps
from tokendream.dream import imagine
from tokendream.play.library import episodes
from tokendream.play.playing_agent import FUTURES, PlayingAgent
from tokendream.play.recording import Recorder
from tokendream.play.session import HISTORY, Session
from tokendream.play.view import MODES, SPEEDS, PlayError, picture
from tokendream.play.worlds import RealGame


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return load(make_run(tmp_path_factory.mktemp("play") / "run"))


@pytest.fixture(scope="module")
def recorded(trained, tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("play") / "run")
    return episodes(run, run / "none", trained, print)


@pytest.fixture
def session(trained, recorded):
    session = Session(trained, recorded, seed=1, temperature=1.0)
    yield session
    session.close()


def same(a, b):
    return a.panels.keys() == b.panels.keys() and all(np.array_equal(a.panels[k], b.panels[k]) for k in a.panels)


@pytest.mark.parametrize("codes", [2, 3, 16])
def test_every_code_has_a_colour_of_its_own(trained, codes):
    config = vary(trained.config, "tokenizer", codebook_size=codes)
    agent = Agent.from_config(config, trained.spaces)
    palette = PlayingAgent(dataclasses.replace(trained, config=config, agent=agent), seed=0, temperature=1.0).palette()
    assert len({tuple(colour) for colour in palette}) == len(palette) == codes
    assert all(0 <= lightness <= 1 and a * a + b * b < 0.01 for lightness, a, b in palette)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_moves_and_shows_its_panels(session, mode):
    session.set_mode(mode)
    pictures = []
    for _ in range(6):
        if MODES[mode].who == "person":
            session.hold(["LEFT"])
        pictures.append(tick(session))
    expected = {"dream"} if MODES[mode].truth is None else {"frame", "reconstruction", "dream"}
    for view in pictures:
        assert set(view.panels) == expected
        assert view.entropy is not None
        assert (view.entropy >= 0).all()
        assert (view.entropy <= np.log(16) + 1e-3).all()
        assert view.probs.sum() == pytest.approx(1, abs=1e-5)
        assert sum(view.state["expected"]) == pytest.approx(1, abs=1e-5)
    assert len({picture(view).tobytes() for view in pictures}) > 1
    assert pictures[-1].state["step"] == 6
    assert pictures[-1].trace.shape == (3, 6)


def test_uncertainty_is_of_what_tokens_are_drawn_from(session, monkeypatch):
    M = session.agent.world_model
    monkeypatch.setattr(M, "config", dataclasses.replace(M.config, token_temperature=1e-6))
    assert tick(session).entropy.max() < 0.1


def test_the_game_is_the_game(session, trained):
    """Frames and rewards are those of the environment under the actions that were shown."""
    game = RealGame(trained.config, 1)
    assert np.array_equal(session.view().panels["frame"], game.frame)
    for step in range(20):
        view = tick(session)
        happened = game.step(view.state["action"])
        assert np.array_equal(view.panels["frame"], game.frame)
        assert (view.state["reward"], view.state["end"]) == (happened.reward, happened.end), step
    assert np.array_equal(trained.agent.tokenizer.encode(torch.from_numpy(game.frame)).numpy(),
                          view.tokens["reconstruction"])  # fmt: skip


def test_the_memories_in_the_game_are_those_of_an_agent_that_acts(session, trained):
    """`imagine.step` with its frame corrected leaves C where `Agent.act` and `absorb_action` leave it."""
    C, V = trained.agent.actor_critic, trained.agent.tokenizer
    memory = C.initial_state(1)
    frame = session.view().panels["frame"]
    for _ in range(5):
        view = tick(session)
        with torch.no_grad():
            _, memory = C(V.codes(V.encode(torch.from_numpy(frame[None]))), memory)
            memory = C.absorb_action(torch.tensor([view.state["action"]]), memory)
        frame = view.panels["frame"]
    torch.testing.assert_close(session.now.seen.policy.h, memory.h)


@pytest.mark.parametrize("mode", ["agent-game", "agent-both", "agent-dream", "replay", "replay-both"])
def test_going_back_is_exact(session, mode):
    session.set_mode(mode)
    pictures = [tick(session) for _ in range(12)]
    session.rewind(5)
    assert session.paused
    assert same(session.view(), pictures[-6])
    assert session.view().state["score"] == pictures[-6].state["score"]
    assert session.view().trace.shape[1] == 7
    if MODES[mode].truth is not None:  # what really happens is the same again under the same actions
        for before in pictures[-5:]:
            if MODES[mode].who == "recording":
                session.advance()
            else:
                session.act(before.state["action"])
            assert np.array_equal(session.view().panels["frame"], before.panels["frame"])
    session.rewind(10_000)
    assert session.view().state["step"] == 0
    with pytest.raises(PlayError, match="nothing to rewind"):
        session.rewind(1)


def test_history_is_bounded(session):
    assert session._past.maxlen == HISTORY
    session._past = type(session._past)(maxlen=4)
    session.set_mode("person-dream")
    pictures = [tick(session) for _ in range(9)]
    assert len(session._past) == 4
    session.rewind(100)
    assert same(session.view(), pictures[-5])


def test_a_person_acts_and_a_tap_between_two_steps_counts(session):
    session.set_mode("person-game")
    names = session.buttons.layout.names
    assert names[tick(session).state["action"]] == "STAY"
    session.hold(["RIGHT"])
    assert [names[tick(session).state["action"]] for _ in range(2)] == ["RIGHT", "RIGHT"]
    session.hold([])
    assert names[tick(session).state["action"]] == "STAY"
    session.hold(["LEFT"])
    session.hold([])
    assert [names[tick(session).state["action"]] for _ in range(2)] == ["LEFT", "STAY"]
    with pytest.raises(PlayError, match="nearest: RIGHT"):
        session.hold(["RIHGT"])


def test_paused_a_key_is_a_step_and_nothing_else_is(session):
    session.set_mode("person-dream")
    session.pause(True)
    before = session.view()
    assert same(tick(session), before)
    session.hold(["LEFT"])
    assert session.view().state["step"] == 1
    assert session.row.action == session.buttons.layout.choose(["LEFT"])
    session.hold(["LEFT"])  # still held: no news
    assert tick(session).state["step"] == 1


def test_what_if_an_action_is_taken_whoever_plays(session):
    for mode in ("agent-game", "agent-dream", "agent-both", "person-game"):
        session.set_mode(mode)
        session.paused = False
        for action in (2, 0, 1):
            session.act(action)
            assert tick(session).state["action"] == action
        session.pause(True)
        step = session.view().state["step"]
        session.act(2)
        assert session.view().state["step"] == step + 1
        assert session.view().state["action"] == 2
    with pytest.raises(PlayError, match=r"0\.\.2"):
        session.act(3)
    session.set_mode("replay")
    with pytest.raises(PlayError, match="its own actions"):
        session.act(0)


def test_side_by_side_begins_as_one_and_goes_on_without_the_truth(session):
    for _ in range(4):
        tick(session)
    session.set_mode("agent-both")
    now = session.now
    assert now.dream is now.seen
    tick(session)
    true_tokens = session.now.seen.tokens
    dreamt = session.now.dream.tokens
    assert not torch.equal(true_tokens, dreamt)  # random weights: the dream goes elsewhere at once
    tick(session)
    assert not torch.equal(session.now.dream.world.S, session.now.seen.world.S)
    session.reset()
    assert torch.equal(session.now.dream.tokens, session.now.seen.tokens)


def test_a_dream_begins_at_what_is_shown_and_reset_leads_back(session):
    for _ in range(7):
        tick(session)
    seen = session.now.seen
    session.set_mode("agent-dream")
    assert session.now.dream is seen
    first = session.view()
    assert first.state["score"] == 0
    for _ in range(5):
        tick(session)
    session.reset()
    assert same(session.view(), first)
    session.set_mode("agent-game")
    assert session.now.seen is seen  # the game has waited
    assert session.view().state["step"] == 7


def test_a_dream_that_ends_begins_again(session, monkeypatch):
    session.set_mode("agent-dream")
    first = session.view()
    step = imagine.step

    def ending(*args, **options):
        dream, taken = step(*args, **options)
        return dream, taken._replace(outcome=taken.outcome._replace(end=torch.tensor([True])))

    monkeypatch.setattr(imagine, "step", ending)
    assert tick(session).state["over"]
    again = tick(session)
    assert same(again, first)
    assert "over" not in again.state


def test_a_game_that_is_over_is_followed_by_another(session):
    over = [tick(session).state.get("over", False) for _ in range(90)]
    assert [i for i, o in enumerate(over) if o] == [38, 78]  # Catch has 39 steps; the picture after is a new game


@pytest.mark.parametrize("away", [[], ["agent-both"], ["agent-dream", "agent-game"]])
def test_a_game_that_is_over_is_not_stepped_on(session, away):
    while not tick(session).state.get("over", False):
        pass
    ended = session.view()
    for mode in away:
        session.set_mode(mode)
    session.row = None
    session.advance()
    assert session.view().state["step"] == 0
    assert session.row is None
    assert not np.array_equal(session.view().panels["frame"], ended.panels["frame"])
    session.advance()
    assert session.view().state["step"] == 1


def test_a_replay_shows_what_was_recorded(session, recorded):
    session.set_mode("replay")
    rows = recorded[0].replay.rows(np.array(recorded[0].rows))
    assert np.array_equal(session.view().panels["frame"], rows["frame"][0])
    for i in range(1, recorded[0].length):
        view = tick(session)
        assert np.array_equal(view.panels["frame"], rows["frame"][i])
        assert view.state["action"] == rows["action"][i - 1]
        assert view.state["reward"] == rows["reward"][i - 1]
        assert view.state["replay"]["at"] == i
    with pytest.raises(PlayError, match="the episode ends here"):
        session.advance()
    assert session.paused


def test_a_moment_of_a_replay_is_warm_as_a_dream_of_training(session, trained, recorded):
    episode = recorded[0]
    session.open_episode(0)
    session.seek(9)
    L = trained.config.dream.burn_in
    rows = episode.replay.rows(np.array(episode.rows[9 - L : 10]))
    steps = Steps(
        torch.from_numpy(rows["action"][None].astype(np.int64)),
        torch.from_numpy(rows["reward"][None]),
        torch.from_numpy(rows["end"][None]),
        torch.ones(1, L + 1, dtype=torch.bool),
    )
    with trained.compute.autocast():
        tokens = trained.agent.tokenizer.encode(torch.from_numpy(rows["frame"]))[None]
        expected = imagine.start(trained.agent, tokens, steps, trained.config.dream)
    assert torch.equal(session.now.seen.world.S, expected.world.S)
    assert torch.equal(session.now.seen.policy.h, expected.policy.h)
    session.set_mode("person-dream")
    assert torch.equal(session.now.dream.tokens, expected.tokens)
    tick(session)
    session.set_mode("replay")
    state = session.view().state
    assert state["replay"]["at"] == state["step"] == 9
    assert state["score"] == episode.replay.rows(np.array(episode.rows[:9]))["reward"].sum()
    session.seek(10**9)
    assert session.view().state["replay"]["at"] == episode.length - 1


def test_futures_are_dreams_of_one_moment(session):
    tick(session)
    session.show_futures(True)
    start = session.view().futures
    assert start.shape[0] == FUTURES
    assert (start == start[0]).all()
    before = session.now
    for _ in range(3):
        view = tick(session)
    assert len({frame.tobytes() for frame in view.futures}) > 1
    assert session.now is before  # the rest stands still
    assert view.state["futures"]["at"] == 3
    session.act(2)
    assert session.view().state["futures"] == session.view().state["futures"] | {"first": 2, "at": 0}
    tick(session)
    chosen = session._futures.dreams.tokens[5:6]
    session.choose(5)
    assert session.mode.name == "agent-dream"
    assert torch.equal(session.now.dream.tokens, chosen)
    assert tick(session).futures is None
    with pytest.raises(PlayError, match="no future"):
        session.choose(5)


def test_without_episodes_replay_is_refused_and_all_else_goes_on(trained):
    session = Session(trained, [])
    with pytest.raises(PlayError, match="no recorded episode"):
        session.set_mode("replay")
    with pytest.raises(PlayError, match="0 recorded episodes"):
        session.open_episode(0)
    assert tick(session).state["mode"] == "agent-game"
    session.close()


@pytest.mark.parametrize(("call", "message"), [
    (lambda s: s.set_mode("agent-drem"), "nearest: agent-dream"),
    (lambda s: s.set_fps(7), "one of 1, 2, 4"),
    (lambda s: s.seek(3), "only a replay"),
])  # fmt: skip
def test_what_cannot_be_done_is_said(session, call, message):
    with pytest.raises(PlayError, match=message):
        call(session)
    assert same(session.view(), session.view())


@pytest.mark.parametrize("seed", range(4))
def test_nothing_that_can_be_asked_for_breaks_it(trained, recorded, seed):
    """Random controls in random order: each works or is refused in one line, and the picture stays whole."""
    rng = np.random.default_rng(seed)
    session = Session(trained, recorded, seed=seed)
    modes = list(MODES)
    calls = {
        "mode": lambda: session.set_mode(modes[rng.integers(8)]),
        "tick": lambda: tick(session),
        "advance": session.advance,
        "step": session.step,
        "pause": lambda: session.pause(bool(rng.integers(2))),
        "rewind": lambda: session.rewind(int(rng.integers(1, 9))),
        "hold": lambda: session.hold([["LEFT"], [], ["RIGHT", "LEFT"]][rng.integers(3)]),
        "act": lambda: session.act(int(rng.integers(3))),
        "reset": session.reset,
        "new": session.new,
        "futures": lambda: session.show_futures(bool(rng.integers(2))),
        "choose": lambda: session.choose(int(rng.integers(20))),
        "open": lambda: session.open_episode(int(rng.integers(3))),
        "seek": lambda: session.seek(int(rng.integers(60))),
        "speed": lambda: session.set_fps(int(rng.choice(SPEEDS))),
        "reload": lambda: session.reload(trained, recorded),
    }
    recorder = Recorder(trained.spaces)
    names = rng.choice(list(calls), 150, p=[0.12, 0.3] + [0.58 / 14] * 14)
    for name in names:
        with contextlib.suppress(PlayError):
            calls[name]()
        view = session.view()
        assert set(view.panels) >= ({"dream"} if session.mode.truth is None else {"frame", "reconstruction"})
        if session.row is not None:
            recorder.add(session.row, picture(view))
            session.row = None
    recorder._arrays()  # whatever was done, the rows make episodes
    session.close()
