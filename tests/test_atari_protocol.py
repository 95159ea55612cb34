"""The protocol against the bare emulator: four raw frames a step, the maximum of the last two, nothing sticky."""

import ale_py
import numpy as np
import pytest
from ale_py import ALEInterface, roms

from tokendream.envs.atari import AtariEnvs, find_game
from tokendream.envs.gym import resize


@pytest.mark.parametrize("game", ["MsPacman", "Breakout", "Alien"])
def test_a_step_is_four_frames_of_the_bare_emulator(game: str, rng: np.random.Generator) -> None:
    envs = AtariEnvs(game, 1, noop_max=1)
    envs.reset([0])
    ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    bare = ALEInterface()
    bare.setFloat("repeat_action_probability", 0.0)
    bare.loadROM(roms.get_rom_path(find_game(game)[1]))
    actions = bare.getMinimalActionSet()
    assert len(actions) == envs.n_actions
    rewarded = flickered = False
    for _ in range(300):
        action = int(rng.integers(len(actions)))
        reward, screens = 0.0, []
        for _ in range(4):
            reward += bare.act(actions[action])
            screens.append(bare.getScreenRGB())
        transition = envs.step(np.array([action]))
        assert transition.reward[0] == reward  # not clipped: a point of MsPacman is 10
        assert bool(transition.over[0]) == bare.game_over()
        if bare.game_over():
            break
        shown = resize(np.maximum(screens[-1], screens[-2]), 64).transpose(2, 0, 1)
        assert np.abs(shown.astype(int) - transition.frame[0]).max() <= 1
        flickered |= bool((screens[-1] != screens[-2]).any())
        rewarded |= reward != 0
    assert rewarded
    assert flickered
