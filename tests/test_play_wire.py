"""Messages: what is packed can be read, and what a viewer says is a control or one line of complaint."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from playing import unpack

from tokendream.play import wire
from tokendream.play.view import View, picture

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def said(text):
    """A control, or an error of one line; nothing else is raised."""
    complaint = None
    try:
        control = wire.parse(text)
    except wire.WireError as error:
        complaint = str(error)
    assert type(control) in wire.CONTROLS.values() if complaint is None else "\n" not in complaint


def view(rng, **more):
    frame = rng.integers(0, 256, (3, 8, 8), dtype=np.uint8)
    tokens = rng.integers(0, 16, 4, dtype=np.int32)
    probs, trace = np.full(3, 1 / 3, np.float32), np.zeros((3, 5), np.float32)
    return View({"frame": frame, "dream": 255 - frame}, {"dream": tokens}, probs, trace, {"step": 3}, **more)


def test_a_picture_comes_back_as_it_went(rng):
    entropy = rng.random(4, dtype=np.float32)
    futures = rng.integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    one = view(rng, entropy=entropy, futures=futures)
    state, arrays = unpack(wire.pack(one, rate=14.5))
    assert state == {"step": 3, "rate": 14.5}
    assert np.array_equal(arrays["panel.frame"], one.panels["frame"])
    assert np.array_equal(arrays["tokens.dream"], one.tokens["dream"])
    assert np.array_equal(arrays["entropy"], entropy)
    assert np.array_equal(arrays["futures"], futures)
    assert np.array_equal(arrays["trace"], one.trace)


def test_a_picture_with_a_number_that_is_none_is_refused(rng):
    with pytest.raises(ValueError, match="JSON"):
        wire.pack(view(rng), value=float("nan"))


def test_one_picture_of_a_view(rng):
    one = view(rng)
    assert np.array_equal(picture(one), np.concatenate([one.panels["frame"], one.panels["dream"]], axis=2))
    futures = rng.integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    grid = picture(view(rng, futures=futures))
    assert grid.shape == (3, 16, 24)
    assert np.array_equal(grid[:, 8:, :8], futures[3])
    assert not grid[:, 8:, 16:].any()


@given(st.text(max_size=60) | ANYTHING.map(lambda value: json.dumps(value)))
def test_whatever_is_said_is_a_control_or_one_line(text):
    said(text)


@given(
    st.sampled_from(sorted(wire.CONTROLS)), st.dictionaries(st.sampled_from(["on", "steps", "action", "x"]), ANYTHING)
)
def test_a_known_word_with_other_fields_is_a_control_or_one_line(name, fields):
    said(json.dumps({"do": name, **fields}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be JSON"),
        ("[" * 900, "must be JSON"),
        ("[]", 'object with a word "do"'),
        ('{"do": 3}', 'object with a word "do"'),
        ('{"do": "pauze", "on": true}', "nearest: pause"),
        ('{"do": "pause"}', "pause.on is missing"),
        ('{"do": "pause", "on": 1}', "pause.on must be of type bool"),
        ('{"do": "step", "steps": 1}', "step.steps is unknown"),
        ('{"do": "rewind", "steps": 0}', "at least 1"),
        ('{"do": "rewind", "steps": true}', "of type int"),
        ('{"do": "ack", "pictures": 1000000}', "in 1..64"),
        ('{"do": "' + "x" * 2000 + '"}', "at most 1024"),
    ],
)
def test_what_is_wrong_is_said(text, message):
    with pytest.raises(wire.WireError, match=re.escape(message)) as error:
        wire.parse(text)
    assert "\n" not in str(error.value)


def test_every_message_of_the_page_is_known():
    page = Path(wire.__file__).parent / "page"
    said = set()
    for script in page.glob("*.js"):
        said |= set(re.findall(r'\{ do: "(\w+)"', script.read_text()))
    assert said | {"release"} == set(wire.CONTROLS)
