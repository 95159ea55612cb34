"""Checkpoints that somebody forged: what they claim is checked, and nothing of them is run."""

import os
from pathlib import Path

import pytest
import safetensors.torch
from checkpoints import SHAPE, damage_pickle, loaded, reseal, run_of_two

from tokendream.cli.main import main
from tokendream.data.replay import ReplayBuffer
from tokendream.runfolder import files
from tokendream.runfolder.checkpoint import Checkpoints
from tokendream.runfolder.files import CheckpointError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_of_two(tmp_path)


@pytest.mark.parametrize(("version", "age"), [(0, "an older"), (2, "a newer"), ("1", "a newer"), (None, "a newer")])
def test_other_versions_are_named_and_not_passed_over(run, version, age):
    reseal(run / "checkpoints/epoch-000012/manifest.json", lambda record: record.update(format=version))
    with pytest.raises(CheckpointError, match=f"has format {version}, {age} one than 1"):
        Checkpoints(run).load()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["files"].update({"../../../secret.safetensors": m["files"]["agent.safetensors"]}),
        lambda m: m["files"].update({"/etc/passwd": m["files"]["agent.safetensors"]}),
        lambda m: m["files"].update({"..": m["files"]["agent.safetensors"]}),
        lambda m: m["files"].update({"a\\b.safetensors": m["files"]["agent.safetensors"]}),
        lambda m: m["files"].update({"nul\0.safetensors": m["files"]["agent.safetensors"]}),
        lambda m: m["files"].pop("state.json"),
        lambda m: m["files"]["state.json"].update(size=-1),
        lambda m: m["files"]["state.json"].update(size=2**80),
        lambda m: m["files"]["state.json"].update(size=1e300),
        lambda m: m["files"]["state.json"].update(sha256="../" * 21 + "x"),
        lambda m: m["files"]["state.json"].update(path="/etc/passwd"),
        lambda m: m.update(files=[1, 2]),
        lambda m: m.update(epoch=11),
        lambda m: m.update(epoch="12"),
        lambda m: m.update(replay=7),
        lambda m: m["replay"][0].update(name="../x"),
        lambda m: m["replay"][0].update(sha256="../../../x"),
        lambda m: m["replay"][0].update(start="../../x"),
        lambda m: m["replay"][0].update(stop=2**70),
        lambda m: m["replay"][1].update(start=21),
        lambda m: m["replay"].reverse(),
        lambda m: m["replay"].append(m["replay"][0]),
        lambda m: m.pop("replay"),
    ],
)
def test_a_manifest_that_lies_is_passed_over(run, change):
    (run.parent / "secret.safetensors").write_bytes((run / "checkpoints/epoch-000012/agent.safetensors").read_bytes())
    reseal(run / "checkpoints/epoch-000012/manifest.json", change)
    epoch, *_, said = loaded(run)
    assert (epoch, len(said)) == (10, 1)
    assert "manifest" in said[0]


def test_a_checkpoint_without_an_agent_is_refused_in_one_line(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", "tiny", "--time-limit", "0", "--run-dir", str(run)]) == 0
    reseal(next(run.glob("checkpoints/*/manifest.json")), lambda m: m["files"].pop("agent.safetensors"))
    capsys.readouterr()
    assert main(["train", "--resume", str(run)]) == 2
    assert "the checkpoint does not fit the config or is damaged: 'agent'" in capsys.readouterr().err


def disguise_link(path: Path) -> None:
    path.rename(path.parents[2] / "elsewhere")
    path.symlink_to(path.parents[2] / "elsewhere")


def disguise_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def disguise_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("disguise", [disguise_link, disguise_pipe, disguise_folder])
@pytest.mark.parametrize("name", ["manifest.json", "state.json", "agent.safetensors"])
def test_only_regular_files_are_read(run, name, disguise):
    disguise(run / "checkpoints/epoch-000012" / name)
    epoch, *_, said = loaded(run)
    assert epoch == 10
    assert "no regular file" in said[0]


def forge(run: Path, name: str, data: bytes) -> None:
    """Replace a file and list it properly."""
    folder = run / "checkpoints" / "epoch-000012"
    (folder / name).write_bytes(data)
    entry = vars(files.write(folder / name, data))
    reseal(folder / "manifest.json", lambda record: record["files"].update({name: entry}))


def header(text: str, payload: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text.encode() + payload


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("agent.safetensors", damage_pickle(b"")),
        ("agent.safetensors", b""),
        ("agent.safetensors", (2**63).to_bytes(8, "little")),
        ("agent.safetensors", header('{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,4]}}', b"0000")),
        ("agent.safetensors", header('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,99999999999]}}', b"0000")),
        ("agent.safetensors", header('{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}')),
        ("agent.safetensors", header('{"a":{"dtype":"Q7","shape":[1],"data_offsets":[0,4]}}', b"0000")),
        ("agent.safetensors", header('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', b"0000")),
        ("agent.safetensors", header('{"a":' * 1000)),
        ("state.json", damage_pickle(b"")),
        ("state.json", b"[]"),
        ("state.json", b"\xff\xfe{}"),
        ("state.json", b"[" * 200_000),
        ("state.json", b'{"a": ' + b"9" * 10_000 + b"}"),
    ],
)
def test_files_that_are_listed_but_lie_are_passed_over(run, name, data):
    forge(run, name, data)
    epoch, *_, said = loaded(run)
    assert (epoch, len(said)) == (10, 1)
    assert name in said[0]


def test_row_files_that_lie_are_refused(run):
    def relist(data: bytes) -> None:
        record = vars(files.write(run / "replay" / "new", data)) | {"start": 20, "stop": 30}
        os.replace(run / "replay/new", run / f"replay/rows-000000020-000000030-{record['sha256'][:16]}.safetensors")
        reseal(run / "checkpoints/epoch-000012/manifest.json", lambda m: m["replay"].__setitem__(1, record))

    good = safetensors.torch.load(next((run / "replay").glob("rows-000000020-*")).read_bytes())
    for bad in (
        damage_pickle(b""),
        safetensors.torch.save({}),
        safetensors.torch.save({k: v[:9] for k, v in good.items()}),
        safetensors.torch.save({**good, "frame": good["frame"][:, :2].contiguous()}),
        safetensors.torch.save({**good, "reward": good["reward"] * float("nan")}),
        safetensors.torch.save({**good, "episode_start": good["episode_start"] * 0 - 2**63}),
        safetensors.torch.save({**good, "frame": good["frame"].bfloat16()}),
    ):
        relist(bad)
        store = Checkpoints(run)
        with pytest.raises(CheckpointError, match="rows-000000020"):
            store.load_replay(12, ReplayBuffer(40, SHAPE))


def test_mutated_files_load_or_raise_a_checkpoint_error(run, rng):
    """300 mutations, half of them resealed so that what lies behind the hashes is reached as well."""
    files = [p for p in run.rglob("*") if p.is_file() and "000010" not in str(p)]
    original = {p: p.read_bytes() for p in files}
    outcomes = {"loaded": 0, "fell back": 0, "refused": 0}
    for i in range(300):
        path = files[rng.integers(len(files))]
        data = bytearray(original[path])
        for _ in range(rng.integers(1, 4)):
            a, b = sorted(rng.integers(0, len(data) + 1, 2))
            kind = rng.integers(4)
            if kind == 0 and a < len(data):
                data[a] = rng.integers(256)
            elif kind == 1:
                del data[a : min(b, a + 8)]
            elif kind == 2:
                data[a:a] = data[a:b]
            else:
                data[a:a] = rng.choice([b"9" * 30, b"-", b'"', b"[", b"null", b"{}", b"../", b"1e999"])
        path.write_bytes(data)
        if i % 2 and path.parent.name == "epoch-000012":
            try:
                if path.name == "manifest.json":
                    reseal(path, lambda record: None)
                else:
                    forge(run, path.name, bytes(data))
            except (ValueError, KeyError, AttributeError, TypeError):
                pass
        try:
            epoch, *_ = loaded(run)
            outcomes["loaded" if epoch == 12 else "fell back"] += 1
        except CheckpointError:
            outcomes["refused"] += 1
        for changed, before in original.items():
            changed.write_bytes(before)
    assert sum(outcomes.values()) == 300
    assert outcomes["fell back"] > 150
    assert loaded(run)[0] == 12


def test_nothing_in_the_package_unpickles():
    package = Path(files.__file__).parent
    for path in package.rglob("*.py"):
        text = path.read_text()
        for word in ("import pickle", " torch.load(", "allow_pickle=True", "weights_only=False", "joblib", "marshal"):
            assert word not in text, f"{path.name}: {word}"
