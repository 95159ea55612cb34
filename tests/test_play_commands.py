"""Messages: what is packed can be read, and what a viewer says is a command or one line of complaint."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from playing import pixels

from tokendream.play import commands
from tokendream.play.commands import COMMANDS, parse
from tokendream.play.view import PlayError, View, pack, picture

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def said(text):
    """A command with arguments of its types, or an error of one line; nothing else is raised."""
    try:
        name, arguments = parse(text)
    except PlayError as error:
        complaint = str(error)
        assert "\n" not in complaint
        assert len(complaint) < 200
    else:
        assert tuple(map(type, arguments)) == COMMANDS[name]


def view(rng, **more):
    frame = rng.integers(0, 256, (3, 8, 8), dtype=np.uint8)
    tokens = rng.integers(0, 16, 4, dtype=np.int32)
    probs, trace = np.full(3, 1 / 3, np.float32), rng.random((3, 5), dtype=np.float32)
    return View({"frame": frame, "dream": 255 - frame}, {"dream": tokens}, probs, trace, {"step": 3}, **more)


def test_a_picture_comes_back_as_it_went(rng):
    entropy = rng.random(4, dtype=np.float32)
    one = view(rng, entropy=entropy)
    message = json.loads(pack(one, newest=14))
    assert message["state"] == {"step": 3, "newest": 14}
    assert message["panels"].keys() == one.panels.keys()
    for name, panel in one.panels.items():
        assert np.array_equal(pixels(message["panels"][name]), panel)
    assert message["tokens"] == {"dream": one.tokens["dream"].tolist()}
    for name in ("probs", "trace", "entropy"):
        np.testing.assert_allclose(message[name], getattr(one, name), atol=6e-5)
    assert json.loads(pack(view(rng)))["entropy"] is None


def test_futures_come_as_one_grid(rng):
    futures = rng.integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    one = view(rng, futures=futures)
    (panel,) = json.loads(pack(one))["panels"].items()
    assert panel[0] == "futures"
    assert np.array_equal(pixels(panel[1]), picture(one))


def test_a_picture_with_a_number_that_is_none_is_refused(rng):
    with pytest.raises(ValueError, match="JSON"):
        pack(view(rng), value=float("nan"))


def test_one_picture_of_a_view(rng):
    one = view(rng)
    assert np.array_equal(picture(one), np.concatenate([one.panels["frame"], one.panels["dream"]], axis=2))
    futures = rng.integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    grid = picture(view(rng, futures=futures))
    assert grid.shape == (3, 16, 24)
    assert np.array_equal(grid[:, 8:, :8], futures[3])
    assert not grid[:, 8:, 16:].any()


@given(st.text(max_size=60) | ANYTHING.map(lambda value: json.dumps(value)))
def test_whatever_is_said_is_a_command_or_one_line(text):
    said(text)


@given(st.sampled_from(sorted(COMMANDS)), st.lists(ANYTHING, max_size=2))
def test_a_known_command_with_other_arguments_is_a_command_or_one_line(name, arguments):
    said(json.dumps([name, *arguments]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be JSON"),
        ("[" * 900, "must be JSON"),
        ("[]", "a list that begins with a command"),
        ("[3]", "a list that begins with a command"),
        ('{"step": 3}', "a list that begins with a command"),
        ('["pauze", true]', "nearest: pause"),
        ('["pause"]', "pause takes bool, not nothing"),
        ('["pause", 1]', "pause takes bool, not 1"),
        ('["step", 1]', "step takes nothing, not 1"),
        ('["rewind", true]', "rewind takes int, not true"),
        ('["rewind", 1, 2]', "rewind takes int, not 1, 2"),
        ('["' + "x" * 2000 + '"]', "at most 1024"),
    ],
)
def test_what_is_wrong_is_said(text, message):
    with pytest.raises(PlayError, match=re.escape(message)) as error:
        parse(text)
    assert "\n" not in str(error.value)


def test_every_command_is_said_by_the_page_and_no_other():
    page = Path(commands.__file__).parent / "page"
    scripts = "".join(script.read_text() for script in page.glob("*.js"))
    said = set(re.findall(r'send\("(\w+)"|=> \["(\w+)"', scripts))
    assert {"".join(pair) for pair in said} | {"take", "release"} == set(COMMANDS)
