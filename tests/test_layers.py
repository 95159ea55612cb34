"""The shape of the code: who may import whom, and how large a room may be."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "tokendream"

FLOORS = [
    ["errors", "ranks", "stop", "nn"],
    ["config", "spaces", "device"],
    ["tokenizers", "envs", "data", "kernels"],
    ["agent"],
    ["dream", "runfolder"],
    ["evaluation"],
    ["reports"],
    ["training", "play", "sweep"],
    ["cli"],
]
"""From the ground up: a room imports from lower floors, or from its own folder."""

DISK = {
    "config",
    "runfolder",
    "reports",
    "evaluation.published",
    "tokenizers.perceptual",
    "kernels.cpu.build",
    "device",
    "kernels.cache",
    "sweep",
    "play.library",
    "play.server",
    "training.run",
    "training.timing",
    "training.results",
    "cli.output",
}
"""Rooms that may touch the disk."""

PARTS = ("tokenizers", "agent.world_model", "agent.actor_critic")
"""V, M and C, which `agent.agent` puts together and `dream` lets meet."""

MODULES = {
    str(path.relative_to(ROOT).with_suffix("")).replace("/", "."): path
    for path in ROOT.rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py") or path.parent.name == "report"
}


def room(module: str) -> tuple[int, str]:
    """Floor and name of the room that a module is in."""
    for floor, names in enumerate(FLOORS):
        for name in names:
            if module == name or module.startswith(name + "."):
                return floor, name
    raise AssertionError(f"{module} stands on no floor: put it into FLOORS")


def imports(path: Path) -> set[str]:
    """Modules of ours that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tokendream"):
            base = node.module.removeprefix("tokendream").lstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}".lstrip(".")
                found.add(full if full in MODULES or (ROOT / full.replace(".", "/")).is_dir() else base)
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("tokendream.") for a in node.names if a.name.startswith("tokendream.")}
    return found - {"", "__version__"}


def test_the_house_stays_small_enough_to_know():
    assert len(FLOORS) <= 9  # 10 with benchmarks and scripts
    assert len([room for floor in FLOORS for room in floor]) <= 23  # 25 with benchmarks and scripts
    assert len([module for module in MODULES if "." not in module]) <= 6


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down(module):
    floor, own = room(module)
    for other in imports(MODULES[module]):
        below, name = room(other)
        assert below < floor or name == own, f"{module} (floor {floor}) imports {other} (floor {below})"


def test_no_modules_import_each_other_in_a_circle():
    """Within a room too, where floors say nothing."""
    below = {module: imports(path) & MODULES.keys() for module, path in MODULES.items()}
    while leaves := {module for module, its in below.items() if not its & below.keys()}:
        below = {module: its for module, its in below.items() if module not in leaves}
    assert not below


def test_the_networks_know_nothing_of_ours():
    for module, path in MODULES.items():
        if module.startswith("nn."):
            assert all(other.startswith("nn") for other in imports(path)), module


def test_the_method_knows_no_kernels():
    for module, path in MODULES.items():
        if room(module)[1] in ("nn", "tokenizers", "agent", "dream", "data", "device"):
            assert not any(other.startswith("kernels") for other in imports(path)), module


@pytest.mark.parametrize("part", PARTS)
def test_the_three_parts_ignore_each_other(part):
    modules = [m for m in MODULES if m == part or m.startswith(part + ".")]
    assert modules
    for module in modules:
        for other in imports(MODULES[module]):
            assert other.startswith(part) or not other.startswith(PARTS), f"{module} imports {other}"


@pytest.mark.parametrize("folder", ["envs", "data"])
def test_data_and_environments_know_no_model(folder):
    for module, path in MODULES.items():
        if module.startswith(folder):
            assert not any(other.startswith(("tokenizers", "agent")) for other in imports(path)), module


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_some_rooms_touch_the_disk(module):
    if room(module)[1] in DISK or module in DISK:
        return
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            assert called not in ("open", "write_text", "read_text", "write_bytes", "read_bytes", "mkdir"), module


@pytest.mark.parametrize("kind", ["py", "cpp", "h", "js", "css", "html"])
def test_no_file_is_larger_than_a_reader_can_hold(kind):
    sizes = {path: len(path.read_text().splitlines()) for path in ROOT.rglob(f"*.{kind}")}
    assert sizes
    assert not {path for path, lines in sizes.items() if lines > 300}


def test_no_file_of_tests_is_larger_either():
    sizes = {path: len(path.read_text().splitlines()) for path in Path(__file__).parent.rglob("*.py")}
    assert not {path for path, lines in sizes.items() if lines > 400}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_room_says_what_it_is(module):
    assert ast.get_docstring(ast.parse(MODULES[module].read_text())), f"{module} has no docstring"


def test_nothing_is_unpickled():
    for module, path in MODULES.items():
        text = path.read_text()
        bare = (
            text.replace("unpickle", "").replace("safetensors.torch.load(", "").replace("safetensors.numpy.load(", "")
        )
        for word in ("pickle", "torch.load(", "np.load(", "numpy.load(", " eval(", " exec("):
            assert word not in bare, f"{module} contains {word}"
