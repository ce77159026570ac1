"""`kernel serve`, run as a person or a supervisor runs it: what it prints, what it obeys, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from server_process import TIMEOUT_SECONDS, ServerProcess

from kernel import ChannelClosed, Code, blocking, connect, dial
from kernel.cli import supervision
from kernel.errors import StartError

Serve = Callable[..., ServerProcess]
Kernel = Callable[..., tuple[int, str, str]]

KERNEL = Path(sys.executable).with_name("kernel")
TCP = "tcp://127.0.0.1:0"


# --- up ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_it_serves_what_it_is_told_where_it_is_told(serve: Serve, tmp_path: Path, loop: str):
    unix = f"unix:{tmp_path}/k.sock"
    server = serve("--plugin", "shout", "--listen", unix, "--listen", TCP, "--loop", loop)

    assert server.endpoints[0] == unix
    assert server.endpoints[1].startswith("tcp://127.0.0.1:")
    assert not server.endpoints[1].endswith(":0")
    for endpoint in server.endpoints:
        async with connect(endpoint, "shout") as channel:
            channel.send(b"hello")
            assert await channel.receive() == b"HELLO"


def test_the_ready_file_is_there_while_the_server_listens(serve: Serve):
    server = serve("--plugin", "shout", "--listen", TCP)
    assert server.ready == {"pid": server.process.pid, "endpoints": server.endpoints}

    server.signal(signal.SIGTERM)
    server.finish()

    assert not server.ready_file.exists()


def test_the_ready_file_of_a_successor_is_left_alone(serve: Serve):
    server = serve("--plugin", "shout", "--listen", TCP)
    server.ready_file.write_text("another")
    server.signal(signal.SIGTERM)
    server.finish()
    assert server.ready_file.read_text() == "another"


def test_it_prints_each_endpoint_and_the_command_that_talks_to_it(serve: Serve, tmp_path: Path):
    server = serve(
        *("--plugin", "shout", "--listen", TCP, "--listen", f"{TCP}?framing=raw"),
        *("--listen", f"unix:{tmp_path}/l s.sock?framing=line", "--listen", "tcp://[::1]:0"),
    )
    tcp, raw, line, v6 = server.endpoints
    host, port = raw.partition("?")[0].removeprefix("tcp://").split(":")
    assert server.output.splitlines() == [
        "kernel 0.1.0 serves shout",
        "",
        f"  {tcp}",
        f"      shout-at {tcp} hello",
        f"  {raw}",
        f"      nc {host} {port}",
        f"  {line}",
        f"      nc -U '{tmp_path}/l s.sock'",
        f"  {v6}",
        f"      shout-at '{v6}' hello",
        "",
        "Press Ctrl-C to stop.",
    ]


def test_everything_can_be_said_in_a_file(serve: Serve, tmp_path: Path):
    (tmp_path / "server.toml").write_text(
        f"""
        plugin = ["shout"]
        log_format = "json"
        [[listen]]
        endpoint = "{TCP}"
        framing = "line"
        """
    )
    server = serve("--config", str(tmp_path / "server.toml"))
    assert server.endpoints[0].endswith("?framing=line")
    server.signal(signal.SIGTERM)
    code, log = server.finish()
    assert code == 0
    assert [json.loads(line)["level"] for line in log.splitlines()] == ["info"]


def test_a_variable_can_say_it_too(serve: Serve):
    server = serve(KERNEL_PLUGIN="shout", KERNEL_LISTEN=f"{TCP} {TCP}")
    assert len(server.endpoints) == 2


def test_a_broken_plugin_is_left_out_with_what_needs_it(serve: Serve, tmp_path: Path):
    server = serve(
        *("--plugin", "broken", "--plugin", "shout"),
        *("--listen", f"unix:{tmp_path}/b.sock?framing=raw&service=broken", "--listen", TCP),
    )
    server.signal(signal.SIGTERM)
    _, log = server.finish()
    assert [endpoint.partition(":")[0] for endpoint in server.endpoints] == ["tcp"]
    assert "the service 'broken' of some-dist 0.3 is broken: ModuleNotFoundError" in log
    assert "/b.sock?framing=raw&service=broken is left out with its service 'broken'" in log


def test_systemd_is_told(serve: Serve, tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        server = serve("--plugin", "shout", "--listen", TCP, NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert manager.recv(100) == b"READY=1"
        server.signal(signal.SIGTERM)
        assert manager.recv(100) == b"STOPPING=1"


ACTIVATION = """#!{python}
import os, socket, sys
sock = socket.create_server(("127.0.0.1", 0))
os.dup2(sock.fileno(), 3)
os.set_inheritable(3, True)
os.environ |= dict(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv({kernel!r}, [{kernel!r}, *sys.argv[1:]])
"""


async def test_without_listen_it_serves_on_the_sockets_that_systemd_hands_over(environ: dict[str, str], tmp_path: Path):
    manager = tmp_path / "manager"
    manager.write_text(ACTIVATION.format(python=sys.executable, kernel=str(KERNEL)))
    manager.chmod(0o700)
    server = ServerProcess(manager, ["--plugin", "shout"], environ, tmp_path)
    try:
        [endpoint] = server.endpoints
        assert endpoint.startswith("tcp://127.0.0.1:")
        async with connect(endpoint, "shout") as channel:
            channel.send(b"hello")
            assert await channel.receive() == b"HELLO"
    finally:
        server.end()


# --- down --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_channels_finish_and_the_exit_is_clean(serve: Serve, number: signal.Signals):
    server = serve("--plugin", "slow", "--listen", TCP, "--limit", "drain_seconds_max=1h")
    async with connect(server.endpoints[0], "slow") as channel:
        channel.send(b"one")
        assert await channel.receive() == b"got it"

        server.signal(number)
        server.log_until("draining")
        channel.send(b"two")

        assert await channel.receive() == b"got it"
    code, log = server.finish()
    assert code == 0
    assert "error" not in log


async def test_the_drain_ends_at_its_deadline(serve: Serve):
    server = serve("--plugin", "slow", "--listen", TCP, "--limit", "drain_seconds_max=100ms")
    async with connect(server.endpoints[0], "slow") as channel:
        channel.send(b"forever")
        await channel.receive()
        server.signal(signal.SIGTERM)
        with pytest.raises(ChannelClosed, match="shutting down"):
            await channel.receive()
    code, _ = server.finish()
    assert code == 0


def test_a_background_job_of_a_script_leaves_ctrl_c_to_others(serve: Serve):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # what the server inherits
    try:
        server = serve("--plugin", "slow", "--listen", TCP)
    finally:
        signal.signal(signal.SIGINT, before)
    server.signal(signal.SIGINT)
    for _ in range(2):  # whatever the first overtakes, the second comes behind it
        server.signal(signal.SIGHUP)
        assert "draining" not in server.log_until("the settings were read again")
    server.signal(signal.SIGTERM)
    assert server.finish()[0] == 0


async def test_a_second_signal_forces(serve: Serve):
    server = serve("--plugin", "slow", "--listen", TCP, "--limit", "drain_seconds_max=1h")
    async with connect(server.endpoints[0], "slow") as channel:
        channel.send(b"forever")
        await channel.receive()
        server.signal(signal.SIGINT)
        server.log_until("draining")
        server.signal(signal.SIGINT)
        with pytest.raises(ChannelClosed):
            await channel.receive()
    code, log = server.finish()
    assert code == 130
    assert "Traceback" not in log


# --- reload ------------------------------------------------------------------------------------------------------


async def test_sighup_changes_the_limits_for_new_connections(serve: Serve, tmp_path: Path):
    path = tmp_path / "server.toml"
    path.write_text("")
    server = serve("--plugin", "shout", "--listen", TCP, "--config", str(path))
    async with connect(server.endpoints[0], "shout") as before:
        path.write_text("[limits]\nmessage_bytes_max = 100_000")
        server.signal(signal.SIGHUP)
        server.log_until("the settings were read again")

        before.send(bytes(200_000))
        assert await before.receive() == bytes(200_000)
        async with connect(server.endpoints[0], "shout") as after:
            after.send(bytes(100_000))
            assert await after.receive() == bytes(100_000)
            after.send(bytes(100_001))
            with pytest.raises(ChannelClosed):
                await after.receive()


def test_sighup_reads_the_settings_again(serve: Serve, tmp_path: Path):
    path = tmp_path / "server.toml"
    path.write_text("")
    server = serve("--plugin", "shout", "--listen", TCP, "--config", str(path))

    path.write_text("log_level = ")
    server.signal(signal.SIGHUP)
    assert f"the settings stay as they were: {path} is not TOML" in server.log_until("the settings")
    path.write_text('log_level = "warning"')
    server.signal(signal.SIGHUP)
    server.log_until("the settings were read again")

    server.signal(signal.SIGTERM)
    assert server.finish() == (0, "")


async def test_a_plugin_that_ignores_its_end_is_named_and_a_third_signal_ends_it(serve: Serve):
    server = serve("--plugin", "stubborn", "--listen", TCP, "--limit", "drain_seconds_max=100ms")
    async with asyncio.timeout(TIMEOUT_SECONDS):
        channel = await connect(server.endpoints[0], "stubborn")
        assert await channel.receive() == b"never"
        server.signal(signal.SIGTERM)
        await asyncio.to_thread(server.log_until, "the service 'stubborn' ignores that it is cancelled: 1 of its tasks")
    # Two of one kind may become one on the way.
    server.signal(signal.SIGTERM)
    server.signal(signal.SIGINT)
    code, _ = await asyncio.to_thread(server.finish)
    assert code == 130


# --- refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("", 2, "there is nothing to serve: add --plugin NAME (installed: broken, "),
        ("--plugin shuot --listen TCP", 2, "there is no service 'shuot': did you mean 'shout'?"),
        ("--plugin shout --plugin shout --listen TCP", 2, "the service 'shout' is named twice: serve it once, "),
        ("--plugin shout?x=1 --listen TCP", 2, "the service shout has no option 'x': it takes none"),
        ("--plugin shout --listen tpc://127.0.0.1:0", 2, "there is no transport 'tpc': did you mean 'tcp'?"),
        ("--plugin shout --listen 7000", 2, "'7000' is not an endpoint: write scheme://address, for example tcp://"),
        ("--plugin shout --listen TCP?framng=raw", 2, "the endpoint 'tcp://127.0.0.1:0?framng=raw' has no option"),
        ("--plugin shout --plugin slow --listen TCP?framing=raw", 2, "add service=NAME to it, one of shout, slow"),
        ("--plugin broken --listen TCP", 2, "the service 'broken' of some-dist 0.3 is broken: ModuleNotFoundError: "),
        ("--plugin shout --plugin broken --strict-plugins --listen TCP", 2, "the service 'broken' of some-dist 0.3 is"),
        ("--plugin refuses --listen TCP", 3, "the service 'refuses' could not start: RuntimeError: no disk"),
        ("--plugin shout --listen unix:/no/such/dir/k.sock", 3, "/no/such/dir"),
        ("--plugin shout --listen TCP --ready-file /no/such/dir/r", 3, "cannot write the ready file /no/such/dir/r: "),
        ("--plugin shout --listen TCP --config /no/such.toml", 2, "cannot read the configuration file /no/such.toml: "),
        ("--plugin shout --listen TCP --limit x", 2, "--limit: 'x' is not NAME=VALUE"),
        ("--plugin shout --listen TCP --limit connections=1", 2, "has no option 'connections': did you mean"),
        ("--plugin shout --listen TCP --log-level loud", 2, "Invalid value for '--log-level': 'loud' is not one of"),
        ("--plugin shout --listen TCP --limit x=1", 2, "--limit: [limits] has no option 'x'"),
        (
            "--plugin shout --listen TCP?send_buffer_bytes=9GiB",
            2,
            "'send_buffer_bytes=9GiB': write a whole number",
        ),
        ("--plugin shout --listen TCP?idle_seconds=1&idle_seconds=2", 2, "gives the option 'idle_seconds' twice"),
        ("--plugin shout --listen unix:/tmp?user=nobody-here", 3, "there is no user 'nobody-here' on this machine"),
        ("--plugin shout --listen unix:/tmp?user=99999999999", 3, "there is no user '99999999999' on this machine"),
        ("--plugin shout --listen unix:k.sock?mode=rw", 2, "option 'mode=rw': write 600 or 0660"),
        ("--plugin \udcff --listen TCP", 2, "'\\udcff' is not a plugin with options: write NAME or NAME?option=value"),
        ("--listn x", 2, "there is no option '--listn': did you mean '--listen'?"),
    ],
)
def test_what_cannot_be_is_one_line_with_its_remedy(kernel: Kernel, arguments: str, code: int, message: str):
    words = ["serve", *arguments.replace("TCP", TCP).split()]
    exit_code, output, errors = kernel(*words)
    assert (exit_code, output) == (code, "")
    assert errors.startswith("kernel: error: ")
    assert message in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("output", ["/dev/full", ""])
def test_a_server_whose_output_goes_nowhere_serves(environ: dict[str, str], tmp_path: Path, output: str):
    """A full disk, and a reader that has gone away."""
    reader, nowhere = os.pipe()
    os.close(reader)
    if output:
        os.close(nowhere)
        nowhere = os.open(output, os.O_WRONLY)
    ready = tmp_path / "ready.json"
    command = [KERNEL, "serve", "--plugin", "shout", "--listen", TCP, "--ready-file", str(ready)]
    server = subprocess.Popen(command, stdout=nowhere, stderr=subprocess.PIPE, text=True, env=environ)
    os.close(nowhere)
    guard = threading.Timer(TIMEOUT_SECONDS, server.kill)
    guard.start()
    assert server.stderr is not None
    try:
        assert "the endpoints cannot be printed" in server.stderr.readline()
        with blocking.connect(json.loads(ready.read_text())["endpoints"][0], "shout") as channel:
            channel.send(b"hello")
            assert channel.receive() == b"HELLO"
        server.terminate()
        _, log = server.communicate()
        assert server.returncode == 0, log
    finally:
        guard.cancel()
        server.kill()
        server.wait()
        server.stderr.close()


def test_a_busy_port_is_named_with_the_remedy(kernel: Kernel):
    with socket.create_server(("127.0.0.1", 0)) as other:
        endpoint = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        code, _, errors = kernel("serve", "--plugin", "shout", "--listen", endpoint)
    assert code == 3
    assert errors.startswith(f"kernel: error: cannot listen on {endpoint}: ")
    assert errors.count("\n") == 1


def test_uvloop_that_is_not_installed_is_named_with_the_remedy(kernel: Kernel, environ: dict[str, str]):
    Path(environ["PYTHONPATH"], "uvloop.py").write_text("raise ImportError")
    code, _, errors = kernel("serve", "--plugin", "shout", "--listen", TCP, "--loop", "uvloop")
    assert (code, errors) == (
        2,
        "kernel: error: uvloop is not installed: pip install 'transport-kernel[uvloop]'\n",
    )


# --- where to listen when nobody says ------------------------------------------------------------------------------


def test_without_listen_it_takes_a_loopback_port_and_a_socket_in_the_runtime_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert supervision.local_endpoints(7420) == ("tcp://127.0.0.1:7420", f"unix:{tmp_path}/kernel.sock")


def test_without_a_runtime_directory_it_makes_a_private_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    path = supervision.runtime_directory()

    assert path == tmp_path / f"kernel-{os.getuid()}"
    assert path.stat().st_mode & 0o777 == 0o700
    assert supervision.runtime_directory() == path
    path.chmod(0o755)
    with pytest.raises(StartError, match=r"is not a private directory of yours: remove it, or set XDG_RUNTIME_DIR"):
        supervision.runtime_directory()


def test_a_link_in_its_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / f"kernel-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartError, match="is not a private directory of yours"):
        supervision.runtime_directory()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ()),
        ({"LISTEN_PID": "me", "LISTEN_FDS": "2"}, ("fd://3", "fd://4")),
        ({"LISTEN_PID": "1", "LISTEN_FDS": "2"}, ()),
        ({"LISTEN_PID": "me", "LISTEN_FDS": "two"}, ()),
        ({"LISTEN_PID": "me"}, ()),
    ],
)
def test_sockets_of_systemd_are_ours_when_they_are_for_this_process(
    variables: dict[str, str], expected: tuple[str, ...]
):
    environ = {name: str(os.getpid()) if value == "me" else value for name, value in variables.items()}
    assert supervision.inherited_endpoints(environ) == expected


def test_a_simulated_network_is_shown_with_its_weather_around_a_real_port(
    serve: Callable[..., ServerProcess], kernel: Callable[..., tuple[int, str, str]]
):
    server = serve("--plugin", "echo", "--listen", "sim://here?delay_seconds=1ms&seed=7")
    assert "  sim://here?delay_seconds=1ms&seed=7\n      only this process can dial it; " in server.output
    real = server.output.partition("--listen '")[2].partition("'")[0]
    assert real == "chaos+tcp://127.0.0.1:0?delay_seconds=1ms&seed=7"

    stormy = serve("--plugin", "echo", "--listen", real)
    code, out, _ = kernel("echo", "-q", stormy.endpoints[0], "hello")
    assert (code, out) == (0, "hello\n")


# --- the access log ------------------------------------------------------------------------------------------------


async def test_the_access_log_has_a_record_for_each_channel(serve: Serve):
    server = serve("--plugin", "shout", "--listen", TCP, "--access-log", "--log-level", "error", "--log-format", "json")
    async with connect(server.endpoints[0], "shout") as channel:
        channel.send(b"hello")
        assert await channel.receive() == b"HELLO"
    record = json.loads(server.log_until("a channel ended"))
    assert (record["logger"], record["principal"], record["transport"]) == ("kernel.access", "anonymous", "tcp")
    assert (record["service"], record["code"], record["reason"]) == ("shout", "ok", "")
    assert record["peer"].startswith("127.0.0.1:")
    assert record["seconds"] >= 0

    async with dial(server.endpoints[0]) as client:
        channel = await client.open("shout")
        channel.reset(Code.CANCELLED, "no more of this")
    record = json.loads(server.log_until("a channel ended"))
    assert (record["code"], record["reason"]) == ("cancelled", "no more of this")


async def test_without_being_asked_there_is_none(serve: Serve):
    server = serve("--plugin", "shout", "--listen", TCP, "-v")
    async with connect(server.endpoints[0], "shout") as channel:
        channel.send(b"hello")
        assert await channel.receive() == b"HELLO"
    server.signal(signal.SIGTERM)
    assert "a channel ended" not in server.finish()[1]
