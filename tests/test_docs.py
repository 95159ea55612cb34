"""The pages against the tree: links lead somewhere, commands are understood, docs/paper.md names what is there."""

import ast
import collections
import functools
import importlib
import re
import shlex
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tokendream.cli.commands import COMMANDS, command
from tokendream.cli.flags import parse, parse_envs, parse_sweep, parse_train
from tokendream.config.presets import PRESETS

ROOT = Path(__file__).parents[1]
PAPER = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
REFERENCES = sorted(set(re.findall(r"`([\w./]+)::([\w.]+)`", PAPER)))
SECTIONS = re.split(r"## Numbers: the preset `([\w-]+)`", PAPER.split("## Numbers in the code")[0])
NUMBERS = [
    (preset, field, value)
    for preset, text in zip(SECTIONS[1::2], SECTIONS[2::2], strict=True)
    for field, value in re.findall(r"`([a-z_.]+)` = `?([\w.]+)`?", text)
]
CONSTANTS = re.findall(r"`([\w/]+)\.py::([A-Z_]+)` = ([\d.]+)", PAPER.split("## Numbers in the code")[1])


@functools.cache
def names(path: str) -> set[str]:
    """Every function, class, method and assigned name of a file, methods and fields as Class.name."""
    found: set[str] = set()

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    collect(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(prefix + node.target.id)
            elif isinstance(node, ast.Assign):
                assigned = (part for target in node.targets for part in ast.walk(target))
                found.update(prefix + part.id for part in assigned if isinstance(part, ast.Name))

    collect(ast.parse((ROOT / path).read_text(encoding="utf-8")).body, "")
    return found


@pytest.mark.parametrize(("path", "name"), REFERENCES, ids=lambda part: part.rpartition("/")[2])
def test_what_the_page_names_exists(path, name):
    assert (ROOT / path).is_file()
    assert name in names(path)


def test_files_that_a_page_names_exist():
    """Paths stand from the clone or from the package."""
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        for path in re.findall(r"`((?:\w+/)+\w+\.py)`", page.read_text(encoding="utf-8")):
            found = any((folder / path).is_file() for folder in (ROOT, ROOT / "tokendream"))
            assert found or page.name == "CHANGELOG.md" or "your" in path, (page.name, path)


def test_every_row_names_code_and_a_test():
    """A row without a test would be a claim that nothing checks."""
    rows = [
        line
        for line in PAPER.split("## Numbers")[0].splitlines()
        if line.startswith("|") and not line.startswith("|--")
    ]
    headings = ("| paper |", "| published code |")
    claims = [row for row in rows if not row.startswith(headings)]
    assert len(claims) > 50
    for row in claims:
        assert row.count(" | ") == 1, row
        assert "`tokendream/" in row, row
        assert "checked by `tests/" in row, row


@pytest.mark.parametrize(("preset", "field", "value"), NUMBERS)
def test_the_numbers_are_those_of_the_preset(preset, field, value):
    got = functools.reduce(getattr, field.split("."), PRESETS[preset])
    assert got == (type(got)(value) if not isinstance(got, str) else value)


@pytest.mark.parametrize(("module", "name", "value"), CONSTANTS)
def test_the_numbers_in_the_code_are_those_of_the_page(module, name, value):
    assert getattr(importlib.import_module(module.replace("/", ".")), name) == float(value)


def test_the_page_gives_the_numbers_of_every_phase():
    assert collections.Counter(preset for preset, _, _ in NUMBERS) == {
        "rem": 51, "simulus": 34, "simulus-dmc": 19, "easimulus": 1
    }  # fmt: skip
    assert len(CONSTANTS) == 9


def anchors(page: Path) -> set[str]:
    """The headings of a page, as a link names them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if not path.startswith("http"):
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


COMMAND_LINES = sorted(
    {
        line.strip()
        for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for line in block.splitlines()
        if line.strip().startswith("tokendream ")
    }
)


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_commands_of_the_pages_are_understood(line):
    """Parsed as they stand there, and not run."""
    _, name, *words = shlex.split(line, comments=True)
    kind, _ = command(name)
    parsers = {"train": parse_train, "sweep": parse_sweep, "envs": parse_envs}
    assert isinstance(parsers[name](words) if name in parsers else parse(kind, words, name), kind)


def test_the_pages_have_commands_of_every_kind():
    assert {line.split()[1] for line in COMMAND_LINES} == set(COMMANDS)


def test_the_environment_of_the_page_runs_as_it_stands_there(tmp_path, monkeypatch):
    """And keeps the condition that the page names: its seed and the same actions give the same game."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "environments.md").read_text(encoding="utf-8"), re.S)
    (tmp_path / "my_package.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        game = gymnasium.make("my_package:Arm-v0")
        check_env(game.unwrapped)
        actions = np.random.default_rng(0).uniform(-1, 1, (100, 2)).astype(np.float32)
        games = []
        for _ in range(2):
            seen, _ = game.reset(seed=3)
            games.append([seen["hand"].tolist()])
            for action in actions:
                seen, reward, terminated, truncated, _ = game.step(action)
                games[-1].append([seen["hand"].tolist(), reward])
                if terminated or truncated:
                    break
        assert games[0] == games[1]
    finally:
        gymnasium.registry.pop("Arm-v0", None)
        sys.modules.pop("my_package", None)


def test_the_tree_of_the_page_is_the_tree():
    tree = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Where things are")[1].split("```")[1]
    rooms = {path.parent.name for path in (ROOT / "tokendream").glob("*/*.*")} - {"__pycache__"}
    assert set(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE)) == rooms
