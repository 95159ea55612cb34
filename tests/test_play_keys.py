"""The keys of every game: each action can be reached, and no key means two things."""

import itertools
import re
from pathlib import Path

import pytest
from gymnasium import spaces

from tokendream.config.config import Config
from tokendream.config.env import EnvConfig
from tokendream.envs.atari100k import ATARI_100K
from tokendream.envs.choices import Choices
from tokendream.envs.registry import make
from tokendream.play.keys import BUTTONS, SPARE, JointLayout, KeyLayout

PAGE = Path(__file__).parents[1] / "tokendream" / "play" / "page"


@pytest.mark.parametrize("game", sorted(ATARI_100K))
def test_every_action_of_every_game_is_a_set_of_buttons(game):
    envs = make(Config(env=EnvConfig(game)), 1, evaluation=False)
    names = envs.spaces.action_names
    envs.close()
    layout = KeyLayout.of(names)
    for action, buttons in enumerate(layout.actions):
        for held in itertools.permutations(buttons):
            assert layout.choose(held) == action, names[action]
    assert names[layout.idle] == "NOOP"
    assert set(layout.keys) <= set(BUTTONS)


def test_a_game_with_all_18_actions_uses_five_buttons():
    names = ["NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN", "UPRIGHT", "UPLEFT", "DOWNRIGHT", "DOWNLEFT"]
    names += [f"{name}FIRE" for name in names[2:]]
    layout = KeyLayout.of(names)
    assert len(set(layout.actions)) == 18
    assert set(layout.keys) == set(BUTTONS)
    assert names[layout.choose(["FIRE", "LEFT", "UP"])] == "UPLEFTFIRE"


def test_of_what_cannot_be_held_together_the_newest_counts():
    layout = KeyLayout.of(["NOOP", "LEFT", "RIGHT", "FIRE"])
    assert layout.names[layout.choose(["LEFT", "RIGHT"])] == "RIGHT"
    assert layout.names[layout.choose(["RIGHT", "LEFT"])] == "LEFT"
    assert layout.names[layout.choose(["FIRE", "LEFT"])] == "LEFT"
    assert layout.choose([]) == layout.choose(["UP"]) == layout.idle == 0


def test_names_that_say_nothing_get_a_letter_each():
    layout = KeyLayout.of(["0", "1", "2", "1", "Move_Left", "stay"])
    assert layout.idle == 5
    assert len(set(layout.actions)) == 6
    letters = [keys for button, keys in layout.keys.items() if button not in BUTTONS]
    assert len(set(letters)) == 5
    assert layout.actions[4] == {"Move_Left"}
    assert KeyLayout.of([str(a) for a in range(40)]).choose(["39"]) == 39


@pytest.mark.parametrize("n", [2, 30])
def test_a_number_rests_in_the_middle_and_a_choice_at_its_first(n):
    choices = Choices("X-v0", spaces.Dict({"go": spaces.Discrete(5), "pull": spaces.Box(-1, 1, (n,))}))
    layout = JointLayout.of(choices.names, choices.space, choices.numbers)
    assert set(choices.sizes[1:]) == {51 if n == 2 else 3}
    given = choices.to_env(layout.choose(["go 2", "pull[0] +"]))
    assert (given["go"], given["pull"].tolist()) == (2, [1.0, *[0.0] * (n - 1)])


def test_no_key_is_a_button_and_a_command():
    commands = re.findall(r'^  \["\w+", ".*?", "<?(\w+)"', (PAGE / "controls.js").read_text(), re.MULTILINE)
    assert len(commands) > 12
    buttons = [key for keys in BUTTONS.values() for key in keys] + [f"Key{letter}" for letter in SPARE]
    assert len(set(buttons)) == len(buttons)
    assert not set(commands) & set(buttons)
    assert len(set(commands)) == len(commands) - 1  # undo ten steps is undo with shift
