"""A wheel holds what a checkout holds: every file of the package that git tracks, whatever its kind."""

import subprocess
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
