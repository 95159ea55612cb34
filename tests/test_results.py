"""What the README and docs/evidence.md claim about learning is what the committed results say, and nothing more."""

import dataclasses
import importlib
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tokendream.config import presets
from tokendream.config.config import Config, vary

ROOT = Path(__file__).parents[1]
CLIMBER = vary(presets.CPU, "env", id="atari:CrazyClimber")


@pytest.fixture
def evidence(monkeypatch):
    """The tables and curves; the commands are in the module beside it."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("evidence_pages")


@pytest.fixture
def commands(evidence):
    return importlib.import_module("evidence")


def test_the_pages_say_what_the_files_say(evidence):
    assert evidence.results()
    for path, text in evidence.pages().items():
        assert path.read_text() == text, f"{path} is out of date: python scripts/evidence.py write"


def test_the_page_of_tokenizers_says_what_the_files_say(evidence):
    made = importlib.import_module("tokenizers_page")
    for path, text in made.page().items():
        assert path.read_text() == text, f"{path} is out of date: python scripts/evidence.py write"
    rows = [row.strip("| ").split(" | ") for row in made.table().splitlines()[2:]]
    assert [row[0] for row in rows] == ["Boxing", "Breakout", "CrazyClimber", "Krull", "KungFuMaster", "Pong"]
    for game, *row in rows:
        for i, kind in enumerate(made.KINDS):
            line = made.lines(kind)[game]
            assert (line["tokenizer"]["kind"], line["seed"], line["tokenizer"]["codebook_size"]) == (kind, 0, 512)
            assert float(row[1 + 2 * i].split()[0]) == pytest.approx(line["error on moving pixels"], rel=0.05)


def test_the_page_of_presets_says_what_the_files_say(evidence, monkeypatch, tmp_path):
    """A cell that was measured has its source in a file, and one that was not says so."""
    made = importlib.import_module("presets_page")
    for path, text in made.page().items():
        assert path.read_text() == text, f"{path} is out of date: python scripts/evidence.py write"
    rows = [row.strip("| ").split(" | ") for row in made.costs().splitlines()[2:]]
    assert list(dict.fromkeys(row[0] for row in rows)) == made.SHOWN
    assert "simulus" in made.SHOWN
    assert {row[1] for row in rows} <= {"any", *made.KINDS.values()}
    assert all((row[2:4] == [made.NONE] * 2) == (row[1] == "any") for row in rows)
    minutes = [run.minutes for run in made.runs_of("cpu", "AMX") if run.alone]
    said = f"{min(minutes):.0f} to {max(minutes):.0f} min ({len(minutes)} runs" if minutes else made.NONE
    assert said in made.time_of("cpu", "AMX", {})
    assert made.time_of("toy", "ARM", {}) == made.memory_of("toy", "ARM", {}) == made.NONE
    rows = [{"batch": 8, "full_batch": 8}]
    benched = {
        "machine": {"device": "CPU, 2 threads, float32"},
        "run_hours": 1.5,
        "rows": rows,
        "peak_memory_bytes": 2**31,
    }
    assert made.time_of("toy", "ARM", {"toy": benched}) == "90 min (computed, 2 threads)"
    assert made.memory_of("toy", "ARM", {"toy": benched}) == "2"
    part = {"toy": benched | {"rows": [{"batch": 4, "full_batch": 8}]}}
    assert made.memory_of("toy", "ARM", part) == made.NONE  # a smaller batch needs less
    (tmp_path / "docs").mkdir()
    speed = {"preset": "rem", "epoch_seconds": {"total": 60.0}, "environment": {"threads": 2}, "rows": rows}
    (tmp_path / "docs" / "speed-AVX2.json").write_text(json.dumps(speed))
    monkeypatch.setattr(made, "ROOT", tmp_path)
    assert made.time_of("rem", "AVX2", {}) == "10 h at most (computed, 2 threads)"
    assert made.time_of("rem", "AMX", {}) == made.memory_of("rem", "AMX", {}) == made.NONE
    monkeypatch.setattr(made.os, "getloadavg", lambda: (99.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="busy"):
        made.bench([])
    with pytest.raises(ValueError, match="no preset to time: bets; there are rem"):
        made.bench(["bets"])


def test_presets_that_are_named_are_timed_and_the_others_stay(evidence, monkeypatch, tmp_path):
    made = importlib.import_module("presets_page")
    monkeypatch.setattr(made, "FOLDER", tmp_path)
    monkeypatch.setattr(made.os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    timed = []

    def run(command, check):
        timed.append(command[command.index("--preset") + 1])
        Path(command[-1]).write_text(json.dumps({"hours": len(timed)}))

    monkeypatch.setattr(made.subprocess, "run", run)
    made.bench([])
    assert timed == made.SHOWN
    made.bench(["best", "toy"])
    assert timed[len(made.SHOWN) :] == ["best", "toy"]
    (path,) = tmp_path.iterdir()
    found = json.loads(path.read_text())
    n = len(made.SHOWN)
    assert found == {name: {"hours": 1 + i} for i, name in enumerate(made.SHOWN)} | {
        "best": {"hours": n + 1}, "toy": {"hours": n + 2}
    }  # fmt: skip


def test_a_row_says_what_its_file_says(evidence):
    """The figures once more, straight from the scores."""
    table = f"{evidence.table(ROOT / 'README.md')}\n{evidence.earlier(ROOT / 'README.md')}"
    for run in evidence.results():
        if run.control != "none" or run.of_ten:  # the ten seeds of Catch have a table of their own
            continue
        (row,) = [line for line in table.splitlines() if f"{run.path.parent.name}/{run.path.name}/final.json" in line]
        assert f"| {sum(run.final.scores) / len(run.final.scores):,.1f} (" in row
        assert f"| {sum(run.random_player.scores) / len(run.random_player.scores):,.1f} (" in row
        assert f"| {len(run.final.scores)} |" in row


def test_agent_and_random_player_played_the_same_games_as_often(evidence):
    for run in evidence.results():
        assert run.final.env == run.random_player.env == run.config.env_name
        assert len(run.final.scores) == len(run.random_player.scores) == run.config.evaluation.episodes
        assert (run.final.protocol["player"], run.random_player.protocol["player"]) == ("agent", "random")
        same = {"seed", "size", "max_frames", "life_loss_ends", "frame_skip", "noop_max", "sticky_actions"}
        for name in same & run.final.protocol.keys():
            assert run.final.protocol[name] == run.random_player.protocol[name]


def test_only_finished_runs_are_collected(commands, tmp_path, capsys):
    assert commands.main(["collect", str(tmp_path), "nowhere"]) == 2
    assert "is not finished" in capsys.readouterr().err
    assert not (ROOT / "results" / "nowhere").exists()


def test_a_cell_goes_on_with_its_own_run_alone(commands, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commands, "ROOT", tmp_path)
    asked = []
    monkeypatch.setattr(commands, "_tokendream", lambda *argv: asked.append(argv))
    monkeypatch.setattr(commands, "collect", lambda run_dir, device: run_dir)
    folder = tmp_path / "runs" / "CrazyClimber-cpu-seed1"
    folder.mkdir(parents=True)
    words = ["cell", "cpu", "CrazyClimber", "1", "here"]
    config = dataclasses.replace(vary(CLIMBER, "env", id="CrazyClimber"), seed=1)
    (folder / "config.json").write_text(dataclasses.replace(config, epochs=30).to_json())
    assert commands.main(words) == 2
    assert "is a run of another config than cpu --env CrazyClimber --seed 1: move it away" in capsys.readouterr().err
    (folder / "config.json").write_text(config.to_json())
    assert commands.main(words) == 0
    assert asked.pop() == ("train", "--resume", str(folder))
    assert commands.main([*words, "--epochs", "30"]) == 0
    assert asked.pop()[-1] == str(tmp_path / "runs" / "CrazyClimber-cpu-30-epochs-seed1")


def test_figures_that_were_not_seen_are_dashes(evidence):
    run = evidence.results()[0]
    lost = {"name": "moving pixels lost", "value": 0.25}
    unseen = [{"name": name, "value": None} for name in ("correlation of value and return", "reward positive: recall")]
    for figures in ([lost], [lost, *unseen]):
        row = evidence._health(run, [{"figures": figures, "curves": []}])
        assert row.endswith("| 25% | – | – | – | – |")


def test_a_page_without_its_markers_is_refused(evidence):
    assert (
        evidence.write_between("a\n<!-- x -->\nold\n<!-- /x -->\n", "x", "new") == "a\n<!-- x -->\nnew\n<!-- /x -->\n"
    )
    with pytest.raises(ValueError, match="no <!-- y -->"):
        evidence.write_between("<!-- x -->\n<!-- /x -->", "y", "new")


def test_earlier_versions_are_not_summed_up_whatever_they_reached(evidence, monkeypatch):
    def runs(game, preset, version, mean):
        one, other = (
            SimpleNamespace(
                config=SimpleNamespace(env_name=game, preset="cpu"),
                preset=preset,
                version=version,
                tuned_on=False,
                facts={},
                final=SimpleNamespace(mean=score),
                random_player=SimpleNamespace(mean=500.0),
                curve=[{"env_steps": 60_000}],
            )
            for score in (mean - 500, mean + 500)
        )
        return [one, other]

    old = "without reward_heads"
    groups = [
        *(runs("Krull", "cpu", "", 2_000.0), runs("Krull", "cpu", old, 3_000.0)),
        *(runs("KungFuMaster", "cpu, 45 epochs", "", 5_000.0), runs("KungFuMaster", "cpu", old, 2_000.0)),
        runs("Boxing", "cpu", old, 1.0),
    ]
    monkeypatch.setattr(evidence, "whole", lambda: groups)
    rows = [[cell.strip() for cell in line.split("|")] for line in evidence.summary().splitlines()[2:]]
    assert [row[1] for row in rows] == ["Krull, cpu", "KungFuMaster, cpu, 45 epochs"]
    assert [row[3:5] for row in rows] == [
        ["60,000", "2,000.0 (1,500 to 2,500)"],
        ["60,000", "5,000.0 (4,500 to 5,500)"],
    ]


def test_every_link_that_was_cut_has_its_row_of_three_seeds(evidence):
    rows = [row.strip("| ").split(" | ") for row in evidence.controls().splitlines()[2:]]
    assert [row[0] for row in rows] == list(evidence.CONTROLS.values())
    assert all(len(row[1].split(", ")) == 3 for row in rows)


def test_the_kind_of_processor_is_what_the_facts_name(evidence):
    """Those of older runs do not: what chose bf16 had AMX."""
    run, *_ = evidence.results()
    facts = {"device": "CPU, 2 threads, bf16, own kernels", "instructions": "AVX512"}
    assert dataclasses.replace(run, facts=facts).kind == "AMX"
    assert dataclasses.replace(run, facts=facts | {"kind": "AVX-512"}).kind == "AVX-512"
    for kind, instructions, kept in (("AMX", "AVX2", True), ("AMX", "AVX512", False), ("AVX2", "AVX2", False)):
        found = dataclasses.replace(run, facts=facts | {"kind": kind, "instructions": instructions})
        assert found.kept_to_avx2 == kept


def test_runs_of_a_changed_preset_stand_by_themselves(evidence, tmp_path, monkeypatch):
    """Averaging them with the new ones would prove neither."""
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    monkeypatch.setattr(evidence, "RESULTS", tmp_path / "results")
    for seed in range(4):
        folder = tmp_path / "results" / "here" / str(seed)
        shutil.copytree(ROOT / "results" / "two-cores" / "CrazyClimber-cpu-seed0", folder)
        config = dataclasses.replace(CLIMBER, seed=seed)
        (folder / "config.json").write_text((config if seed < 2 else vary(config, "dream", horizon=7)).to_json())
    assert [[run.config.seed for run in runs] for runs in evidence.whole()] == [[0, 1], [2, 3]]
    today, earlier = (
        [line.split(" | ") for line in table(tmp_path / "README.md").splitlines()[2:]]
        for table in (evidence.table, evidence.earlier)
    )
    assert [row[:2] for row in today if "all" in row[1]] == [["| **CrazyClimber, cpu**", "all 2"]]
    assert [row[:3] for row in earlier if "all" in row[2]] == [["| **CrazyClimber, cpu**", "horizon 7", "all 2"]]
    for seed in (1, 3):
        path = tmp_path / "results" / "here" / str(seed) / "config.json"
        path.write_text(dataclasses.replace(Config.from_json(path.read_text()), epochs=30).to_json())
    groups = [(runs[0].preset, runs[0].version, [run.config.seed for run in runs]) for runs in evidence.whole()]
    assert groups == [
        *(("cpu", "", [0]), ("cpu, 30 epochs", "", [1])),
        *(("cpu", "horizon 7", [2]), ("cpu, 30 epochs", "horizon 7", [3])),
    ]


def test_a_version_names_the_fields_that_differ_or_counts_them(evidence):
    """A field with the value of the paper's preset is one that the run was without."""
    run = dataclasses.replace(evidence.results()[0], facts={"started": "2026-11-29T07:50:23+00:00"})

    def version(config):
        return dataclasses.replace(run, config=config).version

    assert version(dataclasses.replace(CLIMBER, seed=7, epochs=3, precision="float32")) == ""
    config = vary(vary(CLIMBER, "world_model", reward_heads=1, reward_head="sign", layers=4), "dream", group=1)
    assert version(config) == "layers 4, reward_head sign, without reward_heads, group"
    config = vary(config, "collect", steps=7, sticky_actions=0.0)
    assert version(config).count(",") == 5
    assert version(vary(config, "env", size=32)) == "7 fields, 2026-11-29"


def test_a_run_that_chose_its_preset_is_averaged_with_no_other(evidence, tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "RESULTS", tmp_path)
    chosen = "CrazyClimber-cpu-seed0"
    assert chosen in evidence.TUNED_ON
    for seed, name in enumerate((chosen, "1", "2")):
        shutil.copytree(ROOT / "results" / "two-cores" / chosen, tmp_path / "here" / name)
        config = dataclasses.replace(CLIMBER, seed=seed)
        (tmp_path / "here" / name / "config.json").write_text(config.to_json())
    assert [[run.config.seed for run in runs] for runs in evidence.whole()] == [[1, 2], [0]]
    rows = evidence.table(tmp_path / "README.md").splitlines()[2:]
    assert ["all 2" in row for row in rows] == [False, False, True, False]
    assert "| [0](here/CrazyClimber-cpu-seed0/final.json), tuned on |" in rows[3]


def test_every_diagnosed_run_has_its_parts_shown_by_its_preset(evidence):
    """But for those of another tokenizer than today's."""
    for earlier in (False, True):
        names = [
            f"| {run.config.env_name}, {run.preset}, seed {run.config.seed}{', kept to AVX2' * run.kept_to_avx2} "
            for runs in evidence.whole()
            for run in runs
            if (run.path / "diagnosis.json").exists() and not run.of_ten and bool(run.version) == earlier
            and run.config.tokenizer.kind == run.today.tokenizer.kind
        ]  # fmt: skip
        rows = evidence.parts(earlier=earlier).splitlines()[2:]
        assert names
        assert [row[: row.index("|", 2)] for row in rows] == names
        assert all(0 <= int(share) <= 100 for row in rows for share in re.findall(r"(\d+)%", row))


def test_rewards_predicted_and_scores_of_kung_fu_master(evidence):
    """What docs/evidence.md says of them."""
    runs = [run for run in evidence.diagnosed() if run.config.env_name == "KungFuMaster"]
    recall = {}
    for run in runs:
        found = json.loads((run.path / "diagnosis.json").read_text())["parts"]
        figures = {figure["name"]: figure["value"] for part in found for figure in part["figures"]}
        recall[run.path] = figures["reward positive: recall"]
    assert max(run.final.mean for run in runs if recall[run.path] < 0.5) == 6_004
    complete = [run.final.mean for run in runs if recall[run.path] >= 0.995]
    assert (min(complete), max(complete)) == (4_292, 25_600)
