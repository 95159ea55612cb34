"""What surrounds a run: streams that close, file systems that cannot, folders by any name, locales, other systems."""

import ast
import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tokendream import errors
from tokendream.cli import main, report
from tokendream.cli.output import LossyStream
from tokendream.errors import ConfigError
from tokendream.runfolder import files, folder, lock, names

PACKAGE = Path(__file__).parents[1] / "tokendream"


@pytest.fixture(autouse=True)
def _fresh() -> None:
    errors.once.cache_clear()


def test_a_reader_that_leaves_is_told_once_and_costs_nothing(capsys):
    reading, writing = os.pipe()
    stream = LossyStream(writing, told=True)
    assert stream.write(b"read") == 4
    os.close(reading)
    assert [stream.write(b"not read"), stream.write(b"not read")] == [8, 8]
    os.close(writing)
    assert isinstance(stream.lost, BrokenPipeError)
    assert capsys.readouterr().err == (
        "tokendream: standard output is lost from here on (Broken pipe); the run goes on\n"
    )


def test_a_full_disk_behind_the_output_costs_nothing(capsys):
    with open("/dev/full", "wb", buffering=0) as full:
        stream = LossyStream(full.fileno(), told=False)
        assert stream.write(b"x") == 1
    assert stream.lost is not None
    assert stream.lost.errno == errno.ENOSPC
    assert capsys.readouterr().err == ""


def test_a_full_pipe_that_does_not_block_is_waited_for():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    stream, data = LossyStream(writing, told=False), bytes(200_000)
    with subprocess.Popen([sys.executable, "-c", "import sys; print(len(sys.stdin.buffer.read()))"], stdin=reading,
                          stdout=subprocess.PIPE) as reader:  # fmt: skip
        os.close(reading)
        sent = 0
        while sent < len(data):
            sent += stream.write(data[sent:])
        os.close(writing)
        assert reader.communicate()[0] == b"200000\n"
    assert stream.lost is None


FULL = b"tokendream: standard output was lost: No space left on device\n"


@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        (">&-", 0, b""),
        (">&- 2>&-", 0, b""),
        ("< /dev/null | head -n 1 > /dev/null", 0, b""),  # the code of head
        ("> /dev/full", 1, FULL),
        ("> /dev/full 2>&1", 1, b""),
    ],
)
def test_a_command_ends_well_wherever_its_output_goes(shell, code, said):
    ended = subprocess.run(
        f"{sys.executable} -m tokendream --help {shell}", shell=True, capture_output=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (code, said)


def test_nothing_of_ours_opens_under_the_numbers_of_closed_streams():
    code = "from tokendream.cli.output import hold_descriptors; hold_descriptors(); import os; print(os.open('/', 0))"
    ended = subprocess.run(f'{sys.executable} -c "{code}" <&- 2>&-', shell=True, capture_output=True, check=False)
    assert ended.stdout == b"3\n"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_folder_that_cannot_be_locked_is_taken_and_that_is_said_once(number, tmp_path, monkeypatch, capsys):
    def flock(file: object, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    for _ in range(2):
        with lock.hold(tmp_path, "held"):
            pass
    assert capsys.readouterr().err == (
        f"tokendream: {tmp_path} cannot be locked ({os.strerror(number)}): let no other process work in it\n"
    )
    assert lock.holder(tmp_path) is None


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_a_folder_that_is_held_is_refused(number, tmp_path, monkeypatch):
    def flock(file: object, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ConfigError, match="held"), lock.hold(tmp_path, "held"):
        pass
    assert lock.holder(tmp_path) == 0  # somebody, who has written no name


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_only_what_cannot_be_flushed_is_let_go(number, tmp_path, monkeypatch):
    def fsync(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    if number in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
        with pytest.raises(OSError, match=os.strerror(number)):
            files.sync(tmp_path)
        with pytest.raises(OSError, match=os.strerror(number)):
            files.write(tmp_path / "x", b"x")
    else:
        files.sync(tmp_path)
        files.write(tmp_path / "x", b"x")


def test_names_are_shown_as_a_shell_takes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "HERE", str(tmp_path))
    assert names.quoted(tmp_path / "my runs" / "a b") == "'my runs/a b'"
    assert names.quoted(tmp_path / "-x") == "./-x"
    assert names.quoted(Path("/elsewhere/$x")) == "'/elsewhere/$x'"
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "config.json").touch()
    with pytest.raises(ConfigError, match="a b exists and is not empty: go on with --resume 'a b' or name"):
        folder.check_free(tmp_path / "a b")


def test_paths_are_taken_from_the_root_and_the_home(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tokendream.sweep.report.page.svg", lambda *_: "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main.main(["report", "--published", "--out=~/a"]) == 0
    assert main.main(["report", "--published", "--out=-b"]) == 0
    assert (tmp_path / "a" / "report.html").is_file()
    assert (tmp_path / "-b" / "report.html").is_file()
    assert not (tmp_path / "~").exists()


def test_memory_that_is_not_there_is_one_line(monkeypatch, capsys):
    def huge(options: object) -> int:
        raise MemoryError("Unable to allocate 2. TiB")

    monkeypatch.setattr(report, "run", huge)
    assert main.main(["report"]) == 2
    assert capsys.readouterr().err == "tokendream: not enough memory: Unable to allocate 2. TiB\n"


def test_on_windows_one_line_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    assert main.main(["train"]) == 2
    assert capsys.readouterr().err == (
        "tokendream: this runs on Linux (macOS is untested); on Windows use its subsystem for Linux, WSL\n"
    )


def bare_texts(path: Path) -> list[int]:
    """Lines of a file where a text is read or written in the encoding of the locale."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        module = getattr(node.func.value, "id", "") if isinstance(node.func, ast.Attribute) else ""
        given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        words = [str(getattr(a, "value", "")) for a in node.args] + [str(given.get("mode", ""))]
        binary = any("b" in word and set(word) <= set("rwxab+") for word in words)
        ours = module in ("files", "os", "Image")  # always UTF-8, or no text
        opens = name in ("open", "fdopen") and not binary and not (ours and name == "open")
        reads = name in ("read_text", "write_text") and not ours
        runs = name in ("run", "Popen", "check_output") and (given.get("text") or given.get("universal_newlines"))
        if (opens or reads or runs) and "encoding" not in given:
            found.append(node.lineno)
    return found


def test_every_text_is_read_and_written_as_utf_8(tmp_path):
    bad = {str(path.relative_to(PACKAGE)): lines for path in PACKAGE.rglob("*.py") if (lines := bare_texts(path))}
    assert not bad
    probe = tmp_path / "probe.py"
    lines = ["open(p)", "p.open('a')", "p.read_text()", "p.write_text(x)", "subprocess.run(c, text=True)",
             "open(p, 'rb')", "open(p, encoding='utf-8')", "os.fdopen(3, 'r+')"]  # fmt: skip
    probe.write_text("\n".join(lines), encoding="utf-8")
    assert bare_texts(probe) == [1, 2, 3, 4, 5, 8]


GAMES = """
import gymnasium, sys, threading, time
from tokendream.envs.toy import Catch

class Closing(Catch):
    def reset(self, **options):
        sys.stdout.close()
        return super().reset(**options)

class Threaded(Catch):
    def reset(self, **options):
        threading.Thread(target=time.sleep, args=(3600,)).start()
        return super().reset(**options)

gymnasium.register("Closing-v0", entry_point=Closing)
gymnasium.register("Threaded-v0", entry_point=Threaded)
"""


def alone(folder: Path, *words: str | bytes, **environ: str) -> "subprocess.CompletedProcess[bytes]":
    """A command in a process of its own, beside the games in GAMES."""
    (folder / "games.py").write_text(GAMES, encoding="utf-8")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), str(folder)]), **environ}
    command = [os.fsencode(word) for word in (sys.executable, "-m", "tokendream", *words)]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, timeout=120, check=False)


def short(env_id: str, run_dir: str | bytes) -> list[str | bytes]:
    return ["train", "tiny", "--time-limit", "0", "--env-id", f"games:{env_id}", "--run-dir", run_dir]


def test_an_environment_can_neither_close_the_output_nor_keep_the_process(tmp_path):
    ended = alone(tmp_path, *short("Closing-v0", "run"))
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"go on with: tokendream train --resume run" in ended.stdout
    ended = alone(tmp_path, *short("Threaded-v0", "other"))
    assert ended.returncode == 0
    assert ended.stderr == b"tokendream: the environment left a thread behind, which is not waited for\n"


@pytest.mark.parametrize(
    "environ", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}], ids=["utf-8", "ascii"]
)
def test_a_run_folder_whose_name_is_no_text_costs_tensorboard_only(environ, tmp_path):
    ended = alone(tmp_path, *short("Closing-v0", b"r\xe9n"), **environ)
    assert ended.returncode == 0
    assert ended.stderr.startswith(b"tokendream: nothing is written for TensorBoard")
    assert ended.stderr.count(b"\n") == 1
    ended = alone(tmp_path, "report", b"r\xe9n", **environ)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert os.path.isfile(os.fsencode(tmp_path) + b"/r\xe9n/report.html")
