"""The diagnosis: every measure against a case whose answer is known, and the whole command on a tiny run."""

import dataclasses
import json
import math
import os
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from playing import PLAIN, make_run

from tokendream.agent.agent import Agent
from tokendream.cli.main import main
from tokendream.config.config import vary
from tokendream.config.parts import TokenizerConfig
from tokendream.config.presets import TINY
from tokendream.data.batch import Segment, Steps
from tokendream.errors import require
from tokendream.evaluation.diagnosis.control import control, returns_ahead
from tokendream.evaluation.diagnosis.figures import Figure, calibration_error, classification
from tokendream.evaluation.diagnosis.parts import parts_ahead
from tokendream.evaluation.diagnosis.vision import vision
from tokendream.evaluation.diagnosis.world import change_expected, drift, world
from tokendream.reports import diagnose
from tokendream.runfolder import files
from tokendream.spaces.layout import Layout, Part
from tokendream.tokenizers.build import build
from tokendream.tokenizers.vq import VQTokenizer
from tokendream.training import run as experiment


def by_name(figures: tuple[Figure, ...] | list[Figure]) -> dict[str, float | None]:
    return {f.name: f.value for f in figures}


def test_calibration_error_of_known_forecasts() -> None:
    sure = torch.full((10,), 0.95)
    assert calibration_error(sure, torch.ones(10)) == pytest.approx(0.05, abs=1e-6)
    assert calibration_error(sure, torch.zeros(10)) == pytest.approx(0.95, abs=1e-6)
    half = torch.full((10,), 0.55)
    assert calibration_error(half, (torch.arange(10) % 2).float()) == pytest.approx(0.05, abs=1e-6)


def test_precision_and_recall_are_counted() -> None:
    predicted, target = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 1, 1, 0])
    logits = torch.nn.functional.one_hot(predicted, 3).float() * 50
    found = by_name(classification(logits, target, ("no", "yes", "never"), "end"))
    assert found["end yes: precision"] == pytest.approx(2 / 3)
    assert found["end yes: recall"] == pytest.approx(2 / 3)
    assert found["end no: precision"] == pytest.approx(1 / 2)
    assert found["end no: expected for each that came"] == pytest.approx(1)
    assert not any("never" in name for name in found)


def test_what_is_expected_too_often_is_said() -> None:
    """A reward in one step of ten, of which M expects .4 in each: four for each that came, and none is predicted."""
    p = torch.tensor([0.6, 0.4]).log().expand(10, 2)
    figures = classification(p, torch.tensor([1] + [0] * 9), ("none", "positive"), "reward")
    (expected,) = (f for f in figures if f.name == "reward positive: expected for each that came")
    assert expected.value == pytest.approx(4)
    assert expected.shortfall == 1
    assert by_name(figures)["reward none: expected for each that came"] == pytest.approx(0.6 * 10 / 9)


def test_every_class_says_what_is_healthy_of_it() -> None:
    """No two of rewards and ends have a meaning in common."""
    logits = torch.eye(3)
    rewards = classification(logits, torch.arange(3), ("negative", "none", "positive"), "reward")
    ends = classification(logits[:2, :2], torch.arange(2), ("no", "yes"), "end")
    healthy = {f.name: f.healthy for f in (*rewards, *ends) if "recall" in f.name or "expected" in f.name}
    assert len(healthy) == len(set(healthy.values())) == 10
    for name, text in healthy.items():
        assert name.startswith("end") == (" end" in text)
    assert healthy["end no: expected for each that came"] == "near 1; far above, dreams go on where the game ends"
    assert healthy["reward none: recall"] == "above 0.5, or dreams pay where the game does not"


def test_a_class_that_is_never_predicted_has_no_precision_but_recall_zero() -> None:
    logits = torch.tensor([[9.0, 0.0]]).expand(4, 2)
    found = by_name(classification(logits, torch.tensor([0, 0, 0, 1]), ("no", "yes"), "end"))
    assert found["end yes: precision"] is None
    assert found["end yes: recall"] == 0


def test_returns_ahead_are_discounted_sums() -> None:
    reward = np.array([5, 0, -3, 0, 2], np.float32)
    over = returns_ahead(reward, 0.5, over=True, ahead=3)
    np.testing.assert_allclose(over, [5 - 0.75, -1.5, -3 + 0.5, 1, 2])
    cut = returns_ahead(reward, 0.5, over=False, ahead=3)
    np.testing.assert_allclose(cut[:3], over[:3])
    assert np.isnan(cut[3:]).all()


@pytest.mark.parametrize(
    ("discount", "steps"), [(0.0, 100), (0.95, 100), (0.98, 149), (0.995, 598), (0.999, 1000), (1.0, 1000)]
)
def test_returns_are_summed_as_far_as_rewards_count(discount, steps):
    """At most 5% of a steady reward's return is left out, within bounds."""
    assert diagnose.steps_that_count(discount) == steps
    assert discount**steps <= 0.05 or steps == 1000


def test_flicker_counts_still_cells_only() -> None:
    """A figure that moves by one cell: the patch tokenizer turns there and nowhere else."""
    torch.manual_seed(0)
    frame = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    for i in range(4):
        frame[i, :, 0:8, 8 * i : 8 * i + 8] = torch.randint(200, 256, (3, 8, 8), dtype=torch.uint8)
    follows = torch.tensor([False, True, True, True])
    patch = VQTokenizer(TokenizerConfig("vq", 8, 3, 64, 16, perceptual="none", network="patch"))
    torch.nn.init.normal_(patch.quantizer.codebook)
    found = by_name(vision(patch, frame, follows).figures)
    assert found["still tokens that flicker"] == 0
    assert found["pixels that move"] == pytest.approx(2 / 16)
    assert found["moving tokens that turn"] > 0
    conv = VQTokenizer(TokenizerConfig("vq", 8, 3, 64, 16, perceptual="none"))
    with torch.no_grad():
        conv.quantizer.codebook.copy_(conv._embed(frame[:2] / 255).flatten(0, 1).repeat(2, 1))
    assert by_name(vision(conv, frame, follows).figures)["still tokens that flicker"] > 0


def test_a_perfect_picture_has_a_psnr() -> None:
    """That of one value in all that is off by one, which JSON can hold."""

    class Perfect(VQTokenizer):
        off = 0

        def decode(self, tokens: torch.Tensor) -> torch.Tensor:
            shown = frame.clone()
            shown[0, 0, 0, 0] += self.off
            return shown

    frame, follows = torch.randint(255, (3, 3, 32, 32), dtype=torch.uint8), torch.tensor([False, True, True])
    V = Perfect(TokenizerConfig("vq", 8, 3, 64, 16, perceptual="none"))
    most = 20 * math.log10(255) + 10 * math.log10(frame.numel())
    for V.off, expected in ((0, most), (1, most), (2, most - 20 * math.log10(2))):
        psnr = vision(V, frame, follows).figures[0]
        assert psnr.value == pytest.approx(expected, abs=1e-3)
        assert psnr.healthy == f"above 25; {most:.3g} where nothing is lost"


@pytest.fixture
def agent() -> Agent:
    return Agent.from_config(TINY, 3).eval()


def segment(length: int, n: int = 6) -> Segment:
    steps = Steps(
        action=torch.randint(3, (n, length)),
        reward=torch.randint(-1, 2, (n, length)).float(),
        end=torch.rand(n, length) < 0.1,
        mask=torch.ones(n, length, dtype=torch.bool),
    )
    return Segment(torch.randint(16, (n, length, 16)), steps)


def test_an_untrained_world_model_knows_nothing(agent: Agent) -> None:
    found = by_name(world(agent, segment(5), None, TINY.dream).figures)
    assert found["token accuracy"] < 0.2
    assert abs(found["next-frame cross-entropy"] - math.log(16)) < 1.0
    assert found["token accuracy where tokens change"] is not None


def test_a_world_model_that_always_copies_has_no_changed_token_right(agent: Agent) -> None:
    M = agent.world_model
    M.copy_head = torch.nn.Linear(M.backbone.width, 1)
    torch.nn.init.zeros_(M.copy_head.weight)
    torch.nn.init.constant_(M.copy_head.bias, 100.0)
    one = segment(5)
    found = by_name(world(agent, one, None, TINY.dream).figures)
    same = (one.tokens[:, 2:] == one.tokens[:, 1:-1]).float().mean()
    assert found["token accuracy"] == pytest.approx(float(same))
    assert found["token accuracy where tokens change"] == 0
    for curve in drift(agent, segment(12), TINY.dream, seed=0):
        assert curve.x == (1, 2, 5)
        assert curve.lines["dream"] == curve.lines["frozen"]


@pytest.mark.parametrize("kind", ["vq", "fsq"])
def test_change_expected_is_what_the_mean_of_a_prediction_explains(kind: str) -> None:
    V = Agent.from_config(vary(TINY, "tokenizer", kind=kind), 3).tokenizer
    before = torch.randint(V.vocabulary, (2, 3, 16))
    real = (before + torch.randint(2, before.shape)) % V.vocabulary
    at = {name: 100 * F.one_hot(tokens, V.vocabulary).float() for name, tokens in (("real", real), ("before", before))}
    for logits, expected in ((at["real"], 1), (at["before"], 0), (torch.maximum(*at.values()), 0.75)):
        (figure,) = change_expected(V, logits, real, before)
        assert figure.value == pytest.approx(expected, abs=1e-5)
    (figure,) = change_expected(V, at["real"], real, real)
    assert figure.value is None  # nothing changed


def test_one_step_ahead_in_the_units_of_every_part() -> None:
    pose, board = Part("pose", "vector", (2,)), Part("board", "map", (1, 2, 2))
    layout = Layout((pose, board, Part("gear", "categorical", (1,), (3,))))
    V, _ = build(dataclasses.replace(TINY.tokenizer, map_cells=2, codebook_size=8), layout)
    seen = [([0, 0], [[0, 0], [0, 0]]), ([3, 0], [[1, 0], [0, 0]]), ([9, 9], [[1, 1], [1, 0]])]
    frame = np.stack([layout.pack({"pose": np.array(pose), "board": np.array([board]), "gear": np.array([1])})
                      for pose, board in seen])  # fmt: skip
    V.fit(torch.from_numpy(frame))
    before, likeliest, real = V.encode(torch.from_numpy(frame))[:, None, None]
    error, cells = parts_ahead(V, likeliest, real, before)
    assert error.name == "pose: mean error one step ahead, in its units"
    assert error.value == pytest.approx(7.5, rel=0.06)  # (6 + 9) / 2
    assert float(error.healthy.split()[1].rstrip(",")) == pytest.approx(9, rel=0.06)
    assert (cells.name, cells.value) == ("board: cells right one step ahead", 0.5)
    assert cells.healthy == "above 0.250, copying the last one"


def test_the_controller_s_figures(agent: Agent) -> None:
    C = agent.actor_critic
    torch.nn.init.zeros_(C.actor.weight)
    torch.nn.init.zeros_(C.actor.bias)
    tokens, steps = segment(4, n=8)
    real = torch.linspace(-1, 1, 8, dtype=torch.float64)
    part = control(agent, tokens, steps, real, ("a", "b", "c"), TINY.dream, temperature=1.0)
    found = by_name(part.figures)
    assert found["policy entropy"] == pytest.approx(math.log(3), abs=1e-5)
    assert found["likeliest action's share"] == pytest.approx(1 / 3, abs=1e-5)
    assert part.bars[0].values == pytest.approx((1 / 3,) * 3, abs=1e-5)
    blank = control(agent, tokens, steps, real * math.nan, ("a", "b", "c"), TINY.dream, temperature=1.0).figures
    assert by_name(blank)["mean value"] is None
    assert not any("nan" in figure.healthy for figure in blank)


def test_actions_are_counted_at_their_temperature_and_the_entropy_is_that_of_training(agent: Agent) -> None:
    C, logits = agent.actor_critic, torch.tensor([1.0, 0.0, -1.0])
    torch.nn.init.zeros_(C.actor.weight)
    C.actor.bias.data = logits.clone()
    tokens, steps = segment(4, n=8)
    for temperature in (0.5, 1.0, 2.0):
        part = control(agent, tokens, steps, torch.zeros(8).double(), ("a", "b", "c"), TINY.dream,
                       temperature=temperature)  # fmt: skip
        assert part.bars[0].values == pytest.approx((logits / temperature).softmax(0).tolist(), abs=1e-5)
        trained = torch.special.entr(logits.softmax(0)).sum()
        assert by_name(part.figures)["policy entropy"] == pytest.approx(float(trained), abs=1e-5)


def test_the_controller_is_warmed_up_as_its_dreams_are(agent: Agent) -> None:
    """Without past actions in the burn-in, as in the published code, what was done is not seen in any figure."""
    tokens, steps = segment(4, n=8)
    others = steps._replace(action=(steps.action + 1) % 3)
    real, names = torch.linspace(-1, 1, 8, dtype=torch.float64), ("a", "b", "c")

    def figures(what: Steps, told: bool) -> dict[str, float | None]:
        settings = dataclasses.replace(TINY.dream, burn_in_actions=told)
        return by_name(control(agent, tokens, what, real, names, settings, temperature=1.0).figures)

    assert figures(steps, False) == figures(others, False)
    assert figures(steps, True) != figures(others, True)
    assert figures(steps, True) != figures(steps, False)


def test_games_are_played_at_the_collecting_temperature(tmp_path, monkeypatch) -> None:
    """Or at the one that is asked for; JSON and page say which."""
    config = dataclasses.replace(
        PLAIN,
        collect=dataclasses.replace(TINY.collect, temperature=0.7),
        evaluation=dataclasses.replace(TINY.evaluation, temperature=0.3),
    )
    run, seen = make_run(tmp_path / "run", config), []
    act = Agent.act

    def spy(self, *args, temperature, **options):
        seen.append(temperature)
        return act(self, *args, temperature=temperature, **options)

    monkeypatch.setattr(Agent, "act", spy)
    for flags, name, played, counted in (
        ([], "diagnosis-60-steps", 0.7, 0.3),
        (["--temperature", "2"], "diagnosis-60-steps-temperature-2", 2.0, 2.0),
    ):
        seen.clear()
        assert main(["diagnose", str(run), "--steps", "60", *flags]) == 0
        assert set(seen) == {played}
        data = json.loads((run / f"{name}.json").read_text())
        assert (data["collect temperature"], data["evaluation temperature"]) == (played, counted)
        page = (run / f"{name}.html").read_text()
        assert f"collect temperature <b>{played}</b>" in page
        assert f"evaluation temperature <b>{counted}</b>" in page


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_ends_with_its_diagnosis(finished, tmp_path, capsys, monkeypatch) -> None:
    """Where it is cut or fails nothing of the evaluation is lost, and it is made when the run is taken up again."""
    run = shutil.copytree(finished, tmp_path / "run")
    assert not (run / "diagnosis.json").exists()  # shorter than what the diagnosis plays
    monkeypatch.setattr(diagnose, "STEPS", 60)
    assert experiment.resume(run, time_limit=0.0) == 0
    assert "stopped (time limit)" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(diagnose, "measure", lambda *_, **__: require(False, "x", "better", "worse"))
        assert experiment.resume(run) == 0
    assert "no diagnosis: x must be better" in capsys.readouterr().out
    assert not (run / "diagnosis.json").exists()
    before = {"epoch": 2, "why": ["of another epoch"]}
    (run / "diagnosis.json").write_text(json.dumps(before))
    assert experiment.resume(run) == 0
    data = json.loads((run / "diagnosis.json").read_text())
    assert data["epoch"] == 4
    out = capsys.readouterr().out
    assert all(line in out for line in data["why"])
    assert "To try first" in (run / "report.html").read_text()
    assert experiment.resume(run) == 0  # once
    assert "Worst" not in capsys.readouterr().out


def test_other_settings_leave_the_run_s_own_diagnosis_alone(tmp_path, capsys, monkeypatch) -> None:
    """And the report that shows it; results are beside, under a name that says the settings."""
    monkeypatch.setattr(diagnose, "STEPS", 60)
    run = make_run(tmp_path / "run")
    assert main(["diagnose", str(run), "--steps", "60"]) == 0
    own = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert {"diagnosis.json", "diagnosis.html", "report.html"} <= {path.name for path in own}
    for flags, name in (
        (["--steps", "90"], "diagnosis-90-steps"),
        (["--steps", "60", "--seed", "2"], "diagnosis-60-steps-seed-2"),
        (["--steps", "60", "--temperature", "0.7", "--seed", "1"], "diagnosis-60-steps-temperature-0.7-seed-1"),
    ):
        capsys.readouterr()
        assert main(["diagnose", str(run), *flags]) == 0
        assert f"diagnosis: {run / name}.html" in capsys.readouterr().out
        assert json.loads((run / f"{name}.json").read_text())["steps"] == int(flags[1])
    assert all(path.read_bytes() == content for path, content in own.items())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_command_writes_its_page(finished, tmp_path, capsys, monkeypatch) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    assert main(["diagnose", str(run), "--steps", "10"]) == 2
    assert "steps must be at least" in capsys.readouterr().err
    monkeypatch.setattr(diagnose, "STEPS", 120)
    assert main(["diagnose", str(run), "--steps", "120"]) == 0
    out = capsys.readouterr().out
    data = json.loads((run / "diagnosis.json").read_text())
    assert [part["title"] for part in data["parts"]] == ["Tokenizer", "World model", "Controller"]
    page = (run / "diagnosis.html").read_text()
    for part in data["parts"]:
        assert part["figures"]
        for figure in part["figures"]:
            assert figure["healthy"]
            assert figure["name"] in out
    assert page.count("<svg") == 3
    assert main(["diagnose", str(tmp_path / "nowhere")]) == 2
    monkeypatch.setattr(files, "write", lambda path, data: os.close(os.open("/proc/refused", os.O_CREAT)))
    assert main(["diagnose", str(run), "--steps", "120"]) == 2  # what was measured is not lost
    assert data["parts"][0]["figures"][0]["name"] in capsys.readouterr().out
