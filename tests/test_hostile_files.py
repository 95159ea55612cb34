"""Files that somebody else made: they are refused in one line, and nothing else happens."""

import contextlib
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torture import FULL
from torture.folders import load_checkpoint, relist
from torture.tally import Tally

from tokendream.cli.main import main
from tokendream.config.presets import TINY
from tokendream.errors import TokendreamError
from tokendream.reports.results import RunFolder
from tokendream.runfolder import files
from tokendream.runfolder.load import read_config
from tokendream.tokenizers import perceptual

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


BIG = """
import resource, sys, numpy as np, safetensors.numpy, safetensors.torch
from pathlib import Path
from tokendream.runfolder import files
path = Path(sys.argv[1])
listed = files.FileHash(path.stat().st_size, sys.argv[2])
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) * 1024
safetensors.torch.load(safetensors.numpy.save({"x": np.zeros(3)}))
before = peak()
tensors = safetensors.torch.load(files.read(path, listed))
print((peak() - before) / path.stat().st_size)
"""


def test_a_large_file_of_tensors_takes_twice_its_size_and_a_lie_takes_nothing(tmp_path, tally: Tally):
    import safetensors.numpy

    path = tmp_path / "big.safetensors"
    listed = files.write(path, safetensors.numpy.save({c: np.ones(2**22, np.float32) for c in "abcdef"}))  # 100 MB
    ended = subprocess.run(
        [sys.executable, "-c", BIG, str(path), listed.sha256], capture_output=True, text=True, check=True
    )
    assert 1.5 < float(ended.stdout) < 2.1
    header = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    lie = files.write(path, len(header).to_bytes(8, "little") + header + bytes(64))
    ended = subprocess.run(
        [sys.executable, "-c", BIG, str(path), lie.sha256], capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30)),
    )  # fmt: skip
    assert "SafetensorError" in ended.stderr.splitlines()[-1]
    tally("tensor file that claims 4 TB", 1, 0)


class Bomb:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_malicious_pickle_under_every_name_that_is_read(small, tmp_path, capsys, tally: Tally):
    marker = tmp_path / "unpickled"
    bomb = pickle.dumps(Bomb(marker))
    names = [p.relative_to(small) for p in small.rglob("*") if p.is_file() and "tensorboard" not in p.parts]
    names += [Path("checkpoints/epoch-000004/agent.pt"), Path("checkpoints/epoch-000004/agent.pkl")]
    assert len(names) > 20
    for name in names:
        run_dir = tmp_path / "run"
        shutil.copytree(small, run_dir)
        (run_dir / name).write_bytes(bomb)
        if name.parent.name == "epoch-000004" and name.name != "manifest.json":
            relist(run_dir, run_dir / name, bomb)
        for load in (load_checkpoint, RunFolder.read, read_config):
            with contextlib.suppress(TokendreamError, OSError):
                load(run_dir)
        for argv in (["train", "--resume", str(run_dir)], ["report", str(run_dir)]) if FULL else ():
            assert main(argv) in (0, 2)
            assert capsys.readouterr().err.count("\n") <= 1
        assert not marker.exists(), name
        shutil.rmtree(run_dir)
    pickle.loads(bomb)
    assert marker.exists()  # it would have worked
    tally("malicious pickles", len(names), 0, "one under every file name of a run folder")


@pytest.mark.parametrize("network", ["vgg16", "alexnet"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "pickle", "gone"])
def test_damaged_lpips_weights_are_refused(network, damage, tmp_path, tally: Tally):
    name = f"lpips_{network}.safetensors"
    data = (perceptual.ASSETS / name).read_bytes()
    marker = tmp_path / "unpickled"
    spoilt = {"cut": data[:-1], "flipped": data[:5000] + b"x" + data[5001:], "pickle": pickle.dumps(Bomb(marker))}
    if damage != "gone":
        (tmp_path / name).write_bytes(spoilt[damage])
    with pytest.raises(perceptual.AssetError, match=name):
        perceptual.read_lpips(network, tmp_path)
    assert not marker.exists()
    tally("LPIPS weights damaged", 1, 0)


@pytest.mark.parametrize(
    "name",
    [".lock", "config.json", "metrics.jsonl", "metrics.jsonl.part", "facts.json", "report.html.part", "tensorboard",
     "checkpoints", "replay", "evaluation", "films", "pictures/real.png", "evaluation/final.json.part", "faults"],
)  # fmt: skip
def test_a_link_leads_nowhere(small, tmp_path, capsys, name, tally: Tally):
    run_dir, outside = tmp_path / "run", tmp_path / "outside"
    shutil.copytree(small, run_dir)
    path = run_dir / name
    if path.is_dir():
        shutil.move(path, outside)
    else:
        outside.write_bytes(path.read_bytes() if path.exists() else b"precious")
        path.unlink(missing_ok=True)
    before = sorted(outside.rglob("*")) if outside.is_dir() else outside.read_bytes()
    path.symlink_to(outside)
    for argv in (["train", "--resume", str(run_dir)], ["report", str(run_dir)], ["eval", str(run_dir)]):
        assert main(argv) == 2
        err = capsys.readouterr().err
        assert f"{name} is a link" in err
        assert err.count("\n") == 1
    assert (sorted(outside.rglob("*")) if outside.is_dir() else outside.read_bytes()) == before
    tally("links out of a run folder", 1, 0, "refused, nothing read or written behind them")


def test_what_a_file_says_cannot_steer_a_terminal_or_a_page(small, tmp_path, capsys, tally: Tally):
    run_dir = tmp_path / "run"
    shutil.copytree(small, run_dir)
    path = next((run_dir / "evaluation").glob("epoch-*"))
    data = json.loads(path.read_text())
    data["protocol"]["epoch"] = "<script>alert(1)</script>"
    path.write_text(json.dumps(data))
    assert main(["report", str(run_dir)]) == 0
    assert "<script>" not in (run_dir / "report.html").read_text()
    (run_dir / "config.json").write_text(TINY.to_json().replace('"epochs"', '"\\u001b[2Jepochs"'))
    capsys.readouterr()
    assert main(["report", str(run_dir)]) == 2
    assert "\x1b" not in capsys.readouterr().err
    tally("text that is code for a terminal or a page", 2, 0)
