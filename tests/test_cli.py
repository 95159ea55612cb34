"""What a user can get wrong on the command line, and what it costs to ask for help."""

import os
import re
import subprocess
import sys

import pytest
from test_ingredients import ingredients

from tokendream.cli import commands, flags, main, report
from tokendream.config.presets import CPU, PRESETS, REM
from tokendream.runfolder import names

SUCCESSORS = {"simulus", "simulus-dmc", "simulus-a", "easimulus", "itc"}


def run(capsys, *argv):
    code = main.main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "unknown command 'trian'; nearest: train"),
        (["train", "cpi"], "unknown preset 'cpi'; nearest: cpu"),
        (["train", "--preset", "tyni"], "unknown preset 'tyni'; nearest: "),
        (["train", "qqqqqq"], "unknown preset 'qqqqqq'; nearest: rem, simulus, "),
        (["train", "Breakout"], "unknown preset 'Breakout': an environment is named by --env Breakout\n"),
        (["train", "--preset", "ms_pacman"], "an environment is named by --env ms_pacman\n"),
        (["train", "CartPole-v1"], "an environment is named by --env CartPole-v1\n"),
        (["train", "ALE/Pong-v5"], "an environment is named by --env ALE/Pong-v5\n"),
        (["train", "my_package:Arm-v0"], "an environment is named by --env my_package:Arm-v0\n"),
        (["train", "runs/X"], "unknown preset 'runs/X': a run goes on with --resume runs/X\n"),
        (["train", ".."], "a run goes on with --resume ..\n"),
        (["train", "cpu", "--gaem", "Pong"], "unknown flag --gaem; nearest: --game"),
        (["train", "cpu", "--epochs", "many"], "--epochs must be a whole number, not 'many'"),
        (["train", "cpu", "--epochs=1e3"], "--epochs must be a whole number, such as 1000, not '1e3'"),
        (["train", "cpu", "--epochs", "9" * 5000], "epochs must be at most 2147483647, not 9999"),
        (["train", "cpu", "--world_model.dropout", "0,1"], "--world-model.dropout must be a number, such as 0.1, not"),
        (["train", "cpu", "--time-limit", "1h"], "--time-limit must be a number, not '1h'"),
        (["eval", "nowhere", "--seed", "1.5"], "--seed must be a whole number, such as 1, not '1.5'"),
        (["eval", "nowhere", "--seed", "1"], "there is no run folder nowhere"),
        (["eval", "nowhere", "--seed", "9" * 5000], "must be at most 4611686018427387904, not a number of thousands"),
        (["eval", "nowhere", "--seed", "-" + "9" * 5000], "--seed must be at least 0, not a number of thousands"),
        (["eval", "nowhere", "--seed", "9" * 5000 + "x"], "--seed must be a whole number, not '9999"),
        (["eval", "nowhere", "--seed="], "--seed must be a whole number, not ''"),
        (["eval", "nowhere", "--temperature", "None"], "there is no run folder nowhere"),
        (["train", "cpu", "--tokenizer.perceptual", "vgg"], "invalid choice 'vgg'"),
        (["train", "cpu", "--world-model.backbone", "mamba"], "invalid choice 'mamba'"),
        (["train", "cpu-nopop"], "unknown preset 'cpu-nopop'; nearest: cpu-no-pop"),
        (["train", "cpu", "--epochs", "0"], "epochs must be at least 1, not 0"),
        (["train", "cpu", "--tokenizer.channels", "12"], "tokenizer.channels must be a multiple of 8"),
        (["train", "cpu", "--game", "Brekout"], "Breakout"),
        (["train", "cpu", "--env-id", "tokendream/Cach-v0"], "tokendream/Catch-v0"),
        (["train", "cpu", "--device", "gpu"], "device must be auto, cpu, cuda or cuda:N, not 'gpu'"),
        (["train", "--resume", "nowhere", "--epochs", "3"], "--resume takes the run's own config"),
        (["train", "--resume", "nowhere", f"--epochs={CPU.epochs}"], "--resume takes the run's own config"),
        (["train", "--resume", "nowhere"], "there is no run folder nowhere"),
        (["eval"], "Missing"),
        (["eval", "--rundir", "nowhere"], "unknown flag --rundir; nearest: --device"),
        (["eval", "nowhere"], "there is no run folder nowhere"),
        (["eval", "nowhere", "--episodes", "0"], "episodes must be in 1..10000, not 0"),
        (["eval", "nowhere", "--seed", "-1"], "seed must be at least 0, not -1"),
        (["eval", "nowhere", "--temperature", "inf"], "temperature must be positive and finite, not inf"),
        (["play", "nowhere", "--temperature", "nan"], "temperature must be positive and finite, not nan"),
        (["dream", "nowhere", "--futures", "100000"], "futures must be in 0..256, not 100000"),
        (["eval", "nowhere", "--seed", "9" * 20], "--seed must be at most 4611686018427387904, not 9999"),
        (["train", "tiny", "--run-dir=~nobody-of-this-name/x"], "~nobody-of-this-name/x: Could not determine home"),
        (["train", "tiny", "--time-limit", "nan"], "--time-limit must be at least 0, not nan"),
        (["train", "tiny", "--run-dir", "/dev/null"], "/dev/null is no folder: name another --run-dir"),
        (["train", "tiny", "--run-dir", "/dev/null/run"], "/dev/null/run: Not a directory"),
        (["train", "tiny", "--run-dir", "/proc/tokendream"], "/proc/tokendream: No such file or directory"),
        (["train", "", "--env", "Pong"], "unknown preset ''"),
        (["train", "--preset=", "--env", "Pong"], "unknown preset ''"),
        (["envs", "check", "Pong", "--preset="], "unknown preset ''"),
        (["report", "nowhere"], "nowhere"),
        (["bench", "--preset", "rim"], "unknown preset 'rim'; nearest: rem"),
        (["bench", "--qick"], "unknown flag --qick; nearest: --quick"),
        (["bench", "claims"], "options: claims"),
        (["bench", "--preset", "tiny", "--out", "/dev"], "--out must be a file, and /dev is a folder"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(capsys, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(names, "HERE", str(tmp_path))
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert err.count("\n") == 1, err
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_flags_override_the_preset():
    options = flags.parse_train(["cpu", "--game", "Pong", "--dream.horizon", "5", "--env.atari.no-life-loss-ends"])
    assert (options.config.env.game, options.config.dream.horizon) == ("Pong", 5)
    assert not options.config.env.atari.life_loss_ends
    assert options.config.tokenizer == CPU.tokenizer
    assert flags.parse_train(["--preset=rem"]).config == REM


@pytest.mark.parametrize("flag", ["--env", "--env-id", "--env_id", "--game", "--env.id"])
@pytest.mark.parametrize("name", ["toy", "rem"])
def test_every_spelling_of_the_environment_is_one_flag(flag, name):
    """Also with a preset that has an environment of its own."""
    for words in ([flag, "Pong"], [f"{flag}=Pong"]):
        assert flags.parse_train([name, *words]).config.env.game == "Pong"


def test_two_environments_are_refused(capsys):
    code, _, err = run(capsys, "train", "tiny", "--game", "Pong", "--env-id", "CartPole-v1")
    assert code == 2
    assert "name one environment" in err


@pytest.mark.parametrize("words", [["cpu", "--preset", "rem"], ["--preset", "rem", "--preset=toy"]])
def test_two_presets_are_refused(capsys, words):
    code, _, err = run(capsys, "train", *words)
    assert code == 2
    assert "give the preset once" in err


def test_the_preset_follows_the_machine_and_is_said(capsys, monkeypatch):
    import torch

    for there, name in ((True, "rem"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert flags.parse_train([]).config.preset == name
        assert f"preset {name}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["", *commands.COMMANDS])
def test_every_help_runs(command, capsys):
    if command in ("", "train"):  # as a program; else here, which takes a tenth of the time
        argv = [sys.executable, "-m", "tokendream", *command.split(), "--help"]
        out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    else:
        with pytest.raises(SystemExit, match="0"):
            main.main([command, "--help"])
        out = capsys.readouterr().out
    assert "usage" in out
    if command:
        about = commands.command(command)[0].__doc__
        assert commands.COMMANDS[command] == about.splitlines()[0]
        assert not re.search(r".\n *[^\w\s]|.\n *\d", about)  # before what is no letter a help keeps the line break
    if command == "train":
        out = " ".join(out.replace("│", " ").split())  # wherever the terminal breaks the lines
        offered = out.partition("PRESET: ")[2].partition(" or a successor's")[0]
        assert set(offered.split(", ")) == set(PRESETS) - SUCCESSORS
        for symbol in ("γ", "λ", "ε", "N, the number of layers", "K = 64 tokens"):
            assert symbol in out


def test_the_help_of_an_ingredient_s_field_has_its_source(capsys, monkeypatch):
    """Every field of the table of docs/beyond.md."""
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit, match="0"):
        main.main(["train", "simulus", "--help"])
    out = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    assert "Simulus, arXiv 2502.11537; EASimulus, 2601.19336; ITC, 2605.16457" in out
    for field, source in ingredients():
        names = set(re.findall("EASimulus|Simulus|ITC|VideoRoPE|HL-Gauss|FSQ|Transformers|no paper", source))
        (text,) = re.findall(rf"--{field.replace('_', '-')}(?:, --\S+)? (.*?)(?= --|$)", out)
        assert any(name in text for name in names), (field, names, text)


def test_help_imports_nothing_heavy():
    began = os.times()
    seen = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tokendream", "--help"], capture_output=True, text=True, check=True
    ).stderr
    imported = {line.rsplit("|", 1)[1].strip() for line in seen.splitlines() if "|" in line}
    assert not imported & {"torch", "numpy", "gymnasium", "ale_py", "matplotlib", "tyro"}
    assert os.times().children_user - began.children_user < 0.8  # seconds, whatever else the machine does


def test_an_interrupt_is_no_traceback(capsys, monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "run", interrupted)
    assert run(capsys, "report", "somewhere") == (130, "", "tokendream: interrupted\n")


def test_a_reader_that_leaves_and_a_terminal_without_our_letters_are_no_traceback():
    argv = [sys.executable, "-m", "tokendream"]
    with subprocess.Popen([*argv, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "100"}
    ended = subprocess.run([*argv, "dream", "--help"], capture_output=True, env=environment, check=True)
    assert b"usage: tokendream dream" in ended.stdout
    code = "import sys; from tokendream.cli import main; main.main = lambda: print('\u00b1') or 0; main.entry()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"?\n", b"")


def test_the_version(capsys):
    assert run(capsys, "--version")[:2] == (0, "tokendream 0.1.0\n")
