"""Every ablation is a whole agent: trained, evaluated, diagnosed, dreamed and played in every mode."""

import pytest

from tokendream.cli.main import main
from tokendream.config.cuts import ABLATIONS
from tokendream.evaluation.evaluation import Evaluation
from tokendream.play.library import episodes
from tokendream.play.session import Session
from tokendream.play.view import MODES
from tokendream.runfolder.load import Trained

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TRAIN = ("--epochs", "3", "--evaluation.every", "0", "--training.cache-tokens", "--tokenizer.tap", "1")


FAST = ("pixels", "dictionary")
OTHERS = [name for name in [*ABLATIONS, "transformer-no-pop", "dictionary-pixels"] if name not in FAST]


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_an_ablation_goes_through_every_command(name, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", f"tiny-{name}", "--run-dir", str(run), *TRAIN]) == 0
    assert main(["eval", str(run), "--episodes", "2", "--no-films"]) == 0
    (score,) = (run / "evaluation").glob("2-games-*.json")
    assert len(Evaluation.from_json(score.read_text()).scores) == 2
    assert main(["diagnose", str(run), "--steps", "45"]) == 0
    assert (run / "diagnosis-45-steps.html").read_text().count("<svg") == 3
    film = ["dream", str(run), "--out", str(tmp_path / "dream.png"), "--at", "8", "--length", "4"]
    for flags in ([], ["--futures", "3"]):
        assert main([*film, *flags]) == 0
    assert capsys.readouterr().err == ""
    trained = Trained.load(run, "cpu")
    session = Session(trained, episodes(run, tmp_path / "recordings", trained, print))
    for mode in MODES:
        session.set_mode(mode)
        session.advance()
        view = session.view()
        assert view.probs.sum() == pytest.approx(1, abs=1e-5)
        assert set(view.panels) >= ({"dream"} if MODES[mode].truth is None else {"frame", "reconstruction"})
    session.show_futures(True)
    session.advance()
    session.advance()
    assert session.view().futures is not None
    session.close()
