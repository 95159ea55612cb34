"""A wheel holds every file of the package that git tracks, and asks for all that the package imports."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from setuptools import Distribution
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parents[1]


def packaged() -> set[str]:
    """The files that setuptools would copy into a wheel, by what pyproject.toml says, relative to the root."""
    distribution = Distribution({"script_name": "setup.py"})
    distribution.parse_config_files()  # reads ./pyproject.toml
    # Else the list of files that an earlier build left behind would count too.
    distribution.include_package_data = False
    command = build_py(distribution)
    command.finalize_options()
    modules = {Path(path).as_posix() for _, _, path in command.find_all_modules()}
    return modules | {(Path(folder) / name).as_posix() for _, folder, _, names in command.data_files for name in names}


def test_every_file_of_the_package_is_in_a_wheel(monkeypatch):
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout to compare with")
    monkeypatch.chdir(ROOT)
    listed = subprocess.run(["git", "ls-files", "tokendream"], capture_output=True, text=True, check=True).stdout
    tracked = {path for path in listed.splitlines() if (ROOT / path).is_file()}
    kinds = {Path(path).suffix for path in tracked}
    assert {".py", ".cpp", ".h", ".css", ".js", ".html", ".safetensors"} <= kinds
    assert tracked - packaged() == set()


def test_what_the_package_imports_is_a_dependency():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[<>=]", requirement)[0] for requirement in declared}
    names.add("triton")  # comes with a torch that is built for CUDA, and is imported where it is there
    known = packages_distributions()
    for path in (ROOT / "tokendream").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                imported = [node.module]
            for module in {name.split(".")[0] for name in imported} - {"tokendream"} - sys.stdlib_module_names:
                assert {d.lower().replace("_", "-") for d in known.get(module, [module])} & names, f"{path}: {module}"
