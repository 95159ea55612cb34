"""--demo: the agent that comes with the package plays its game beside its dream, and says what it is."""

import numpy as np
import pytest
from PIL import Image
from playing import Client
from test_play_command import Process

import tokendream
from tokendream.cli.demo import DEMO
from tokendream.cli.main import main
from tokendream.evaluation.evaluation import evaluate

LARGEST = 8 * 2**20
"""Most bytes of the demo in a wheel."""


def test_it_is_small_and_says_what_it_is():
    assert DEMO.stat().st_size < LARGEST
    facts = tokendream.load(DEMO, "cpu").facts
    assert {"env", "preset", "budget", "score", "random player", "processor"} <= facts.keys()
    page = (DEMO.parent / "README.md").read_text()
    assert f"preset `{facts['preset']}`, seed {facts['seed']}" in page


@pytest.mark.slow
def test_it_plays_as_well_as_it_says():
    """Six other games than those of its score; the means differ by less than three standard errors of either."""
    agent = tokendream.load(DEMO, "cpu")
    said = float(agent.facts["score"].partition(", ")[0].replace(",", ""))
    low, high = agent.facts["score"].partition("interval ")[2].replace(",", "").split(" to ")
    seed, temperature = 1000, agent.config.evaluation.temperature
    played, _ = evaluate(agent.config, agent.policy(seed), 6, seed, together=6, temperature=temperature)
    allowed = 3 * np.hypot(played.standard_error, (float(high) - float(low)) / 4)
    assert abs(played.mean - said) < allowed + 0.1


def test_play_begins_side_by_side_and_says_preset_budget_and_score(tmp_path):
    with Process("--demo", tmp_path) as process:
        client = Client(process)
        client.until(lambda c: c.state.get("step", 0) >= 3)
        assert client.state["mode"] == "agent-both"
        assert {"frame", "dream", "screen"} <= client.picture["panels"].keys()
        facts = client.setup()["facts"]
        assert all(word in facts for word in ("preset ", "budget ", "score ", "random player "))
        assert facts in process.said
        client.close()


@pytest.mark.parametrize("name", ["demo.gif", "demo.mp4", "demo.png"])
def test_dream_films_it(tmp_path, name):
    argv = ["dream", "--demo", "--out", str(tmp_path / name), "--at", "90", "--length", "6", "--device", "cpu"]
    assert main(argv) == 0
    assert (tmp_path / name).stat().st_size > 500
    if name.endswith("gif"):
        with Image.open(tmp_path / name) as film:
            assert film.n_frames > 1
            assert film.info["loop"] == 0


@pytest.mark.parametrize("command", ["play", "dream"])
@pytest.mark.parametrize(
    ("words", "said"),
    [(["RUN", "--demo"], "either a run or --demo, not both"), ([], "Missing: the folder of a run, or --demo")],
)
def test_a_run_or_the_demo(tmp_path, capsys, command, words, said):
    assert main([command, *words]) == 2
    assert capsys.readouterr().err == f"tokendream: {said}\n"
