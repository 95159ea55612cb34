"""The game of Atari in play: the picture that people see, and going back to the bit."""

import numpy as np
import pytest
from PIL import Image
from playing import load, make_run, tick

from tokendream.config.config import vary
from tokendream.config.env import AtariConfig
from tokendream.config.presets import TINY
from tokendream.play.session import Session
from tokendream.play.view import picture
from tokendream.play.worlds import SCREEN, RealGame

BREAKOUT = vary(TINY, "env", id="atari:Breakout")


@pytest.mark.parametrize("frames", ["ale", "published"])
def test_the_screen_of_atari_is_the_frame_that_people_see(frames):
    """Shrunk, it is nearest to the frame of its own moment, forward and back; filters make the difference."""
    game = RealGame(vary(BREAKOUT, "env", atari=AtariConfig(frames=frames)), 0)

    def apart(frame):
        small = Image.fromarray(game.screen.transpose(1, 2, 0)).resize((64, 64), Image.Resampling.BOX)
        return np.abs(np.asarray(small, float).transpose(2, 0, 1) - frame).mean()

    assert game.screen.shape == (3, SCREEN, SCREEN)
    shown = [game.frame]
    for action in (1, 2, 2, 2, 3, 3):
        game.step(action)
        shown.append(game.frame)
    for moment in (6, 2, 0):
        game.rewind(len(game._actions) - moment)
        assert np.array_equal(game.frame, shown[moment])
        assert apart(game.frame) == min(map(apart, shown)) < max(map(apart, shown))
    game.close()


def test_the_screen_is_shown_in_the_game_alone(tmp_path):
    session = Session(load(make_run(tmp_path / "run", BREAKOUT, steps=8)), [])
    for mode, screens in (("agent-game", {"screen"}), ("agent-both", {"screen"}), ("agent-dream", set())):
        session.set_mode(mode)
        view = tick(session)
        assert set(view.panels) - {"frame", "reconstruction", "dream"} == screens
        assert picture(view).shape == (3, 64, 64 * len(set(view.panels) - screens))
    session.close()


def test_atari_rewinds_to_the_bit(tmp_path):
    game = RealGame(BREAKOUT, 0)
    frames = [game.frame]
    for action in (1, 2, 3, 0, 2, 1, 3, 3):
        game.step(action)
        frames.append(game.frame)
    game.rewind(3)
    assert np.array_equal(game.frame, frames[5])
    game.step(1)
    assert np.array_equal(game.frame, frames[6])
    game.close()
