"""Socket files: who can reach them, whose they are, and what becomes of them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from security.services import Recorder
from server_process import ServerProcess

import kernel
from kernel import DialError, Server, StartError

KERNEL = Path(sys.executable).with_name("kernel")


async def echoes(path: Path) -> bool:
    async with kernel.connect(f"unix:{path}", "echo") as channel:
        channel.send(b"hello")
        return await channel.receive() == b"hello"


def serving(path: Path, options: str = "") -> Server:
    return Server([Recorder()], [f"unix:{path}{options}"])


@pytest.fixture
def stale(tmp_path: Path) -> Path:
    """What a server leaves behind that was killed."""
    path = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
    return path


@pytest.mark.parametrize("umask", [0, 0o777])
@pytest.mark.parametrize(("options", "mode"), [("", 0o600), ("?mode=660", 0o660)])
async def test_the_file_has_its_mode_whatever_the_umask(tmp_path: Path, umask: int, options: str, mode: int):
    before = os.umask(umask)
    try:
        async with serving(tmp_path / "socket", options):
            assert stat.S_IMODE((tmp_path / "socket").stat().st_mode) == mode
        assert os.umask(umask) == umask
    finally:
        os.umask(before)


async def test_a_live_servers_path_is_refused_and_the_server_lives_on(tmp_path: Path):
    path = tmp_path / "socket"
    async with serving(path):
        with pytest.raises(StartError, match="a server is alive there: stop it, or take another path"):
            await serving(path).start()
        assert await echoes(path)


async def test_a_live_server_with_a_full_backlog_is_alive_too(tmp_path: Path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(StartError, match="a server is alive there"):
            await serving(path).start()
        assert path.exists()


async def test_a_leftover_is_taken_over(stale: Path):
    with pytest.raises(DialError, match="nobody listens there any more"):
        await kernel.dial(f"unix:{stale}")
    async with serving(stale):
        assert await echoes(stale)


async def test_what_is_no_socket_is_left_alone(tmp_path: Path):
    path = tmp_path / "letter"
    path.write_text("dear")
    with pytest.raises(StartError, match="a file that is not a socket has this name"):
        await serving(path).start()
    assert path.read_text() == "dear"


async def test_ours_is_removed_at_the_end_and_somebody_elses_is_not(tmp_path: Path):
    path = tmp_path / "socket"
    async with serving(path):
        pass
    assert not path.exists()
    async with serving(path):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


async def test_of_those_that_start_at_once_one_gets_the_leftover(stale: Path):
    servers = [serving(stale) for _ in range(20)]
    outcomes = await asyncio.gather(*(server.start() for server in servers), return_exceptions=True)
    started = [server for server, outcome in zip(servers, outcomes, strict=True) if outcome is None]
    assert len(started) == 1
    assert await echoes(stale)
    await started[0].stop()


async def test_nobody_can_hold_up_a_start_for_long(tmp_path: Path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    async with serving(tmp_path / "socket"):
        assert await echoes(tmp_path / "socket")
    os.close(descriptor)


# --- whole processes -------------------------------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Path], ServerProcess]]:
    started: list[ServerProcess] = []

    def start(path: Path) -> ServerProcess:
        environ = {"PATH": "/usr/bin:/bin", "XDG_CONFIG_HOME": str(tmp_path)}
        started.append(ServerProcess(KERNEL, ["--plugin", "echo", "--listen", f"unix:{path}"], environ, tmp_path))
        return started[-1]

    yield start
    for server in started:
        server.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_removes_the_file(start: Callable[[Path], ServerProcess], tmp_path: Path, number: signal.Signals):
    path = tmp_path / "socket"
    server = start(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server.signal(number)
    assert server.finish()[0] == 0
    assert not path.exists()


def test_the_successor_of_a_killed_server_takes_its_place(start: Callable[[Path], ServerProcess], tmp_path: Path):
    path = tmp_path / "socket"
    killed = start(path)
    killed.signal(signal.SIGKILL)
    killed.finish()
    assert path.exists()
    start(path)
    assert asyncio.run(echoes(path))
