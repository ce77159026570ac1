"""`kernel file` as a person uses it: what it prints, what it stores, how it ends, mistakes included."""

from __future__ import annotations

import array
import fcntl
import json
import os
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from file.conftest import KERNEL, Run
from server_process import ServerProcess

from kernel.plugins.file import report, transfer

KIB = 1024
PIPE_BYTES = 64 * KIB


@pytest.fixture
def endpoint(serve_process: Callable[..., ServerProcess], root: Path) -> str:
    return serve_process(root).endpoints[0]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Small and large files, an empty directory, modes and times, a link."""
    base = tmp_path / "tree"
    for name, size in {"a": 0, "b/c": 10, "b/d/e": 50_000, "b/d/large": 3_000_000, "z.txt": 4096}.items():
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
        os.utime(path, ns=(10**18 + size, 10**18 + size))
    (base / "empty").mkdir(mode=0o750)
    (base / "z.txt").chmod(0o600)
    (base / "link").symlink_to("z.txt")
    for directory in (base / "b" / "d", base / "b", base / "empty", base):
        os.utime(directory, ns=(10**18, 10**18))
    return base


def contents(base: Path) -> dict[str, tuple[bytes | None, int, int]]:
    """Everything but links: bytes, mode and time."""
    found = {}
    for path in sorted(base.rglob("*")):
        if not path.is_symlink() and ".kernel" not in str(path):
            data = None if path.is_dir() else path.read_bytes()
            found[str(path.relative_to(base))] = (data, path.stat().st_mode & 0o777, path.stat().st_mtime_ns)
    return found


def test_directories_go_there_and_back(kernel: Run, endpoint: str, root: Path, tree: Path, tmp_path: Path):
    code, out, err = kernel("file", "put", endpoint, "-r", tree, "--to", "backup")
    assert (code, out) == (0, "")
    assert "link: it is a symbolic link: skipped" in err
    assert "stored 5 files, 2.9 MiB in" in err
    assert "verified" in err
    assert contents(root / "backup" / "tree") == contents(tree)
    code, _, _ = kernel("file", "get", endpoint, "-r", "backup/tree", tmp_path / "back")
    assert code == 0
    assert contents(tmp_path / "back") == contents(tree)


def test_one_file_under_its_own_name_or_another(kernel: Run, endpoint: str, root: Path, tree: Path, tmp_path: Path):
    data = (tree / "z.txt").read_bytes()
    (root / "directory").mkdir()
    for arguments, name in (
        ([tree / "z.txt"], "z.txt"),
        ([tree / "z.txt", "other"], "other"),
        ([tree / "z.txt", "directory"], "directory/z.txt"),
        ([tree / "z.txt", "new/"], "new/z.txt"),
        ([tree / "z.txt", "deep/er/name"], "deep/er/name"),
    ):
        assert kernel("file", "put", endpoint, *arguments)[0] == 0
        assert (root / name).read_bytes() == data
    os.chdir(tmp_path)
    assert kernel("file", "get", endpoint, "other")[0] == 0
    assert kernel("file", "get", endpoint, "other", "third")[0] == 0
    assert kernel("file", "get", endpoint, "other", "z.txt", "--to", "some")[0] == 0
    for name in ("other", "third", "some/other", "some/z.txt"):
        assert (tmp_path / name).read_bytes() == data


def test_pipes(kernel: Run, endpoint: str, root: Path):
    code, out, err = kernel("file", "put", endpoint, "-", "piped", "--json", stdin=b"through a pipe")
    assert (code, err) == (0, "")
    assert json.loads(out)["files"][0]["size"] == 14
    assert (root / "piped").read_bytes() == b"through a pipe"
    assert kernel("file", "get", endpoint, "piped", "-", "-q") == (0, "through a pipe", "")


def test_a_pipe_that_nobody_reads_ends_the_command_quietly(
    endpoint: str, root: Path, environ: dict[str, str], tmp_path: Path
):
    (root / "large").write_bytes(os.urandom(5_000_000))
    command = [KERNEL, "file", "get", endpoint, "large", "-"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(10)) == 10
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, env=environ, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == b"kernel: error: standard output cannot be written: no space left on device\n"


def test_a_listing_looks_like_ls(kernel: Run, endpoint: str, root: Path):
    (root / "file.txt").write_bytes(b"12345")
    (root / "file.txt").chmod(0o640)
    (root / "directory").mkdir(mode=0o755)
    (root / b"\xff\x1b[2J".decode("utf-8", "surrogateescape")).write_bytes(b"")
    code, out, _ = kernel("file", "ls", endpoint)
    assert code == 0
    ours = [line.split() for line in out.splitlines()]
    theirs = subprocess.run(["ls", "-l", root], capture_output=True, env={"LC_ALL": "C"}).stdout
    expected = next(line.decode().split() for line in theirs.splitlines() if b"file.txt" in line)
    assert [line for line in ours if line[-1] == "file.txt"] == [expected]
    assert [line[-1] for line in ours] == ["directory/", "file.txt", r"\xff\x1b[2J"]
    assert kernel("file", "ls", endpoint, "-1")[1].splitlines() == ["directory/", "file.txt", r"\xff\x1b[2J"]
    listed = json.loads(kernel("file", "ls", endpoint, "--json")[1])["entries"]
    assert [entry["kind"] for entry in listed] == ["directory", "file", "file"]
    assert "size      5 bytes" in kernel("file", "stat", endpoint, "file.txt")[1]


def test_making_and_removing(kernel: Run, endpoint: str, root: Path):
    assert kernel("file", "mkdir", endpoint, "a") == (0, "", "")
    assert kernel("file", "mkdir", endpoint, "-p", "a/b/c", "a") == (0, "", "")
    (root / "a/b/f").write_bytes(b"")
    assert kernel("file", "rm", endpoint, "a", "missing") == (
        1,
        "",
        "kernel: error: a: the directory is not empty: add -r\n"
        "kernel: error: missing: there is no such file or directory\n",
    )
    assert kernel("file", "rm", endpoint, "-r", "a") == (0, "", "")
    assert [name for name in os.listdir(root) if name != ".kernel-file"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["put", "E", "nowhere"], 1, "nowhere: there is no such file or directory"),
        (["put", "E", "."], 1, "it is a directory: add -r"),
        (["put", "E", "-"], 2, "standard input needs a name there"),
        (["get", "E", "nowhere"], 1, "nowhere: there is no such file or directory"),
        (["get", "E", "../../etc/passwd"], 1, "'..' leads out of it"),
        (["get", "E", ".kernel-file"], 1, "the server keeps unfinished uploads there"),
        (["get", "E", "nowhere", "-", "--json"], 2, "leave one out"),
        (["ls", "E", "nowhere"], 1, "nowhere: there is no such file or directory"),
        (["ls", "tcp://127.0.0.1:1"], 1, "tcp://127.0.0.1:1"),
        (["ls", "nonsense"], 2, "is not an endpoint"),
        (["ls", "E", "--service", "echo"], 1, "there is no service 'echo' here"),
        (["put", "E", "x", "--limit-rate", "0"], 2, "leave it out for no limit"),
        (["put", "E"], 2, "Missing argument"),
        (["sync", "E", "nowhere", "there"], 1, "nowhere: there is no such file or directory"),
        (["sync", "E", "--pull", "nowhere", "here"], 1, "nowhere: there is no such file or directory"),
    ],
)
def test_mistakes_get_one_line(kernel: Run, endpoint: str, arguments: list[str], code: int, words: str, tmp_path: Path):
    os.chdir(tmp_path)
    got, out, err = kernel("file", *(endpoint if word == "E" else word for word in arguments))
    assert (got, out) == (code, "" if "--json" not in arguments else out)
    assert words in err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if "error" in line.lower()]) == 1


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        ("file", "which directory is to be served?"),
        ("file?root=/", "is too much to serve"),
        ("file?root=~", "is too much to serve"),
        ("file?root=/no/such/place", "there is no such directory"),
        ("file?root=.&overwrite=1", "says nothing without writable=1"),
        ("file?root=.&writeable=1", "did you mean 'writable'?"),
    ],
)
def test_a_server_that_cannot_be_says_why(kernel: Run, plugin: str, words: str, tmp_path: Path):
    os.chdir(tmp_path)
    code, _, err = kernel("serve", "--plugin", plugin, "--listen", "tcp://127.0.0.1:0")
    assert code == 2
    assert words in err
    assert err.count("\n") == 1


def test_sync_moves_what_differs(kernel: Run, endpoint: str, root: Path, tree: Path, tmp_path: Path):
    (tree / "link").unlink()
    assert kernel("file", "sync", endpoint, tree, "mirror", "-q")[0] == 0
    assert contents(root / "mirror") == contents(tree)
    again = json.loads(kernel("file", "sync", endpoint, tree, "mirror", "--json")[1])
    assert again["files"] == []
    (tree / "z.txt").write_bytes(b"changed")
    (root / "mirror" / "extra").write_bytes(b"x")
    (root / "mirror" / "b" / "more").mkdir()
    code, out, _ = kernel("file", "sync", endpoint, "-n", "--delete", tree, "mirror")
    assert (code, out) == (0, "+ mirror/z.txt\n- b/more\n- extra\n")
    assert (root / "mirror" / "extra").exists()
    assert kernel("file", "sync", endpoint, "--delete", tree, "mirror", "-q")[0] == 0
    assert contents(root / "mirror") == contents(tree)
    assert kernel("file", "sync", endpoint, "--pull", "mirror", tmp_path / "copy", "-q")[0] == 0
    assert contents(tmp_path / "copy") == contents(tree)
    (tmp_path / "copy" / "b" / "c").unlink()
    (tmp_path / "copy" / "extra").mkdir()
    assert kernel("file", "sync", endpoint, "--pull", "--delete", "mirror", tmp_path / "copy", "-q")[0] == 0
    assert contents(tmp_path / "copy") == contents(tree)


@pytest.fixture
def _in(tmp_path: Path) -> Iterator[None]:
    here = os.getcwd()
    yield
    os.chdir(here)


pytestmark = pytest.mark.usefixtures("_in")


def test_help_is_quick_to_find(environ: dict[str, str]):
    """The commands' modules come late: `--help` of the group imports neither asyncio's loop nor xxhash."""
    script = (
        "import sys; from kernel.cli import root; root.run(['file', '--help']); "
        "assert 'xxhash' not in sys.modules, 'xxhash'; assert 'kernel.client' not in sys.modules, 'client'"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    assert "kernel file put" in done.stdout
    assert KERNEL.exists()


def read_all_from_full_pipe(command: list[str | Path], unbuffered: str) -> tuple[int, bytes]:
    """What a command writes into a pipe that does not block, and that was full before anybody read; its exit code."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(command, stdout=writing, env=environment) as process, os.fdopen(reading, "rb") as pipe:
        os.close(writing)
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        assert poll.poll(30_000)
        while (there := available(reading)) < PIPE_BYTES and process.poll() is None:
            time.sleep(0.01)  # until the pipe is full, or all of it was written
        assert there >= PIPE_BYTES or process.returncode is not None
        data = pipe.read()
    return process.returncode, data


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_pipe_that_does_not_block_gets_all_of_a_long_answer(endpoint: str, root: Path, unbuffered: str):
    for number in range(2000):
        (root / f"a name of some length, so that the pipe is full soon, {number:04}").touch()
    code, printed = read_all_from_full_pipe([KERNEL, "file", "ls", endpoint, "--json"], unbuffered)
    assert code == 0
    assert len(json.loads(printed)["entries"]) == 2000


def test_a_pipe_that_does_not_block_gets_all_of_a_file(endpoint: str, root: Path):
    (root / "data").write_bytes(data := os.urandom(3_000_000))
    assert read_all_from_full_pipe([KERNEL, "file", "get", "-q", endpoint, "data", "-"], "") == (0, data)


def test_a_stream_is_read_from_a_pipe_that_does_not_block(endpoint: str, root: Path):
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    command = [KERNEL, "file", "put", "-q", endpoint, "-", "data"]
    with subprocess.Popen(command, stdin=reading, stderr=subprocess.PIPE) as process, os.fdopen(writing, "wb") as pipe:
        os.close(reading)
        assert process.stderr is not None
        pipe.write(data := os.urandom(100_000))
        pipe.flush()
        while available(pipe.fileno()) and process.poll() is None:
            time.sleep(0.01)  # until it has read all that is there, and must wait for more
        pipe.write(data)
        pipe.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert (root / "data").read_bytes() == data * 2


def available(pipe: int) -> int:
    """How many bytes wait in a pipe."""
    buffer = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, buffer)
    return buffer[0]


@pytest.mark.parametrize("direction", ["put", "get"])
def test_a_directory_that_cannot_be_made_takes_no_other_with_it(
    kernel: Run, endpoint: str, root: Path, tmp_path: Path, direction: str
):
    """They go in one message, many at a time."""
    here, base = (tmp_path, root / "to") if direction == "put" else (root, tmp_path / "to")
    names = ["a", "b", "c", "d"]
    for name in names:
        (here / "tree" / name).mkdir(parents=True)
        os.utime(here / "tree" / name, (1, 1))
    there = base / "tree"
    there.mkdir(parents=True)
    (there / "b").write_bytes(b"in the way")
    arguments = [here / "tree", "to"] if direction == "put" else ["tree", base]
    code, _, err = kernel("file", direction, endpoint, "-r", *arguments)
    assert code == 1
    failed = [line for line in err.splitlines() if line.startswith("kernel: error:")]
    assert len(failed) == 1, err
    assert "b" in failed[0]
    assert sorted(os.listdir(there)) == names
    assert [(there / name).stat().st_mtime for name in names if name != "b"] == [1, 1, 1]


def test_json_says_how_much_was_left_out():
    outcome = transfer.Outcome()
    for number in range(10_003):
        outcome.failed(transfer.Skipped(b"%d" % number, "io", "it failed"))
    told = json.loads(report.as_json(outcome, 1.0, None))
    assert (len(told["failed"]), told["omitted"]) == (10_000, 3)
