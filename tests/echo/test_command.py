"""`kernel echo` as a person types it: replies on stdout, figures on stderr, the verdict in the exit code."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server_process import TIMEOUT_SECONDS

Run = Callable[..., tuple[int, str, str]]
Serve = Callable[..., list[str]]

Start = Callable[..., "Terminal"]

KERNEL = Path(sys.executable).with_name("kernel")
TCP = "tcp://127.0.0.1:0"


@pytest.mark.parametrize("framing", ["knl", "raw", "line", "length", "unix", "udp", "udp raw"])
def test_text_comes_back_on_stdout_and_the_figures_on_stderr(kernel: Run, echoes: dict[str, str], framing: str) -> None:
    code, out, err = kernel("echo", echoes[framing], "hello", "grüße")
    assert (code, out) == (0, "hello grüße\n")
    first, second = err.splitlines()
    assert first.startswith("1 sent, 1 received, 0 lost (0%), 0 corrupt in ")
    assert second.startswith("round trip ")


def test_quiet_leaves_the_reply_alone(kernel: Run, echoes: dict[str, str]) -> None:
    assert kernel("echo", echoes["knl"], "-q", "hello") == (0, "hello\n", "")


def test_bytes_that_are_no_text_pass(kernel: Run, echoes: dict[str, str]) -> None:
    code, out, _ = kernel("echo", echoes["knl"], "-q", os.fsdecode(b"\xff\xfe"))
    assert (code, os.fsencode(out)) == (0, b"\xff\xfe\n")


@pytest.mark.parametrize("framing", ["knl", "raw", "line", "length", "udp", "udp raw"])
def test_each_line_of_standard_input_is_a_message(kernel: Run, echoes: dict[str, str], framing: str) -> None:
    code, out, err = kernel("echo", echoes[framing], stdin=b"one\n\nthree\nfour")
    assert (code, out.rstrip("\n")) == (0, "one\n\nthree\nfour")
    assert err.startswith("4 sent, 4 received")


def test_lines_come_from_a_file_too(kernel: Run, echoes: dict[str, str], tmp_path: Path) -> None:
    data = tmp_path / "lines"
    data.write_bytes(b"".join(b"%d" % number * 50 + b"\n" for number in range(1000)))
    assert kernel("echo", echoes["knl"], "-q", stdin=data) == (0, data.read_text(), "")
    assert kernel("echo", echoes["knl"], "-q", stdin=Path("/dev/null")) == (0, "", "")


def test_a_line_that_is_no_line_is_refused(kernel: Run, echoes: dict[str, str], tmp_path: Path) -> None:
    data = tmp_path / "zeros"
    with data.open("wb") as file:
        file.truncate(17 * 1024 * 1024)
    code, _, err = kernel("echo", echoes["knl"], stdin=data)
    assert code == 2
    assert "longer than 16,777,216 bytes: --whole sends it in parts" in err


@pytest.mark.parametrize(
    ("arguments", "stdin"), [(("two\nlines",), b""), (("--whole",), b"two\nlines"), (("a", "b\n"), b"")]
)
def test_a_message_with_a_newline_is_no_line(
    kernel: Run, echoes: dict[str, str], arguments: tuple[str, ...], stdin: bytes
) -> None:
    code, out, err = kernel("echo", echoes["line"], *arguments, stdin=stdin)
    remedy = "send its lines one by one, or take framing=length or knl"
    assert (code, out, err) == (2, "", f"kernel: error: a message holds what ends a line, b'\\n': {remedy}\n")


@pytest.mark.parametrize(("arguments", "stdin"), [(("x" * 300,), b""), (("--whole",), b"y" * 300)])
def test_a_message_that_a_length_field_cannot_say_is_refused(
    kernel: Run, serve: Serve, arguments: tuple[str, ...], stdin: bytes
) -> None:
    (endpoint,) = serve("echo", f"{TCP}?framing=length&width=1")
    assert kernel("echo", endpoint, "-q", "x" * 255)[:2] == (0, "x" * 255 + "\n")
    code, out, err = kernel("echo", endpoint, *arguments, stdin=stdin)
    what = "a length of 300 does not fit a length field of 1 unsigned bytes"
    remedy = "send less at once, or let both sides take a wider one (width)"
    assert (code, out, err) == (2, "", f"kernel: error: {what}: {remedy}\n")


def test_a_dash_asks_for_standard_input(kernel: Run, echoes: dict[str, str]) -> None:
    assert kernel("echo", echoes["knl"], "-q", "-", stdin=b"a\nb\n")[:2] == (0, "a\nb\n")


def test_empty_input_is_said_to_be_empty(kernel: Run, echoes: dict[str, str]) -> None:
    code, out, err = kernel("echo", echoes["knl"])
    assert (code, out) == (0, "")
    assert "standard input was empty" in err


@pytest.mark.parametrize("framing", ["knl", "raw"])
def test_input_as_a_whole_is_one_message_from_a_pipe_and_from_a_file(
    echoes: dict[str, str], tmp_path: Path, framing: str
) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "data").write_bytes(data)
    command = [KERNEL, "echo", echoes[framing], "--whole"]
    piped = subprocess.run(command, input=data, capture_output=True, timeout=TIMEOUT_SECONDS)
    with (tmp_path / "data").open("rb") as file:
        from_file = subprocess.run(command, stdin=file, capture_output=True, timeout=TIMEOUT_SECONDS)
    for done in (piped, from_file):
        assert (done.returncode, done.stdout == data) == (0, True)
        assert done.stderr.startswith(b"1 sent, 1 received")


def test_json_is_all_there_is_on_stdout(kernel: Run, echoes: dict[str, str]) -> None:
    code, out, err = kernel("echo", echoes["length"], "--count", "20", "--size", "1KiB", "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert (report["sent"], report["received"], report["lost"], report["corrupt"]) == (20, 20, 0, 0)
    assert report["bytes_sent"] == report["bytes_received"] == 20 * 1024
    assert report["round_trip_ms"]["min"] <= report["round_trip_ms"]["p50"] <= report["round_trip_ms"]["max"]


@pytest.mark.parametrize("framing", ["knl", "raw", "line", "length", "udp", "udp raw"])
def test_payloads_suit_every_framing(kernel: Run, echoes: dict[str, str], framing: str) -> None:
    code, out, err = kernel("echo", echoes[framing], "--count", "50", "--size", "5000", "--in-flight", "10")
    assert (code, out) == (0, "")
    assert err.startswith("50 sent, 50 received, 0 lost (0%), 0 corrupt")


def test_an_interval_shows_each_reply_as_ping_does(kernel: Run, echoes: dict[str, str]) -> None:
    code, out, err = kernel("echo", echoes["knl"], "--count", "3", "--interval", "10ms", "--size", "56")
    assert (code, out) == (0, "")
    lines = err.splitlines()
    assert [line.split(" time=")[0] for line in lines[:3]] == [
        f"56 bytes from {echoes['knl']}: seq={number}" for number in (1, 2, 3)
    ]


class TestVerdict:
    def test_upper_case_is_corrupt_unless_expected(self, kernel: Run, serve: Serve) -> None:
        (endpoint,) = serve("echo?mode=upper", TCP)
        code, out, err = kernel("echo", endpoint, "hello")
        assert (code, out) == (1, "HELLO\n")
        assert "1 corrupt" in err
        assert err.endswith(
            "kernel: error: the reply to message 1 differs at offset 0: 0x48 instead of 0x68 "
            "(the server answers in upper case: --expect upper)\n"
        )
        assert kernel("echo", endpoint, "hello", "--expect", "upper")[0] == 0
        assert kernel("echo", endpoint, "--size", "300KB", "--expect", "upper", "-q") == (0, "", "")

    def test_a_greeting_answers_one_message(self, kernel: Run, serve: Serve) -> None:
        (endpoint,) = serve("echo?mode=greeting", TCP)
        assert kernel("echo", endpoint, "hello", "--expect", "any", "-q") == (0, "hi\n", "")
        code, _, err = kernel("echo", endpoint, "hello", "--expect", "any", "--count", "2", "--json")
        assert code == 1
        assert "the channel ended" in err or "the server ended the channel" in err

    def test_silence_is_a_loss(self, kernel: Run, serve: Serve) -> None:
        (endpoint,) = serve("echo?mode=sink", TCP)
        code, out, err = kernel("echo", endpoint, "hello", "--timeout", "100ms")
        assert (code, out) == (1, "")
        assert err.startswith("1 sent, 0 received, 1 lost (100%), 0 corrupt")
        assert err.endswith("kernel: error: no reply to message 1 within 0.1 s\n")

    def test_what_nobody_asked_for_is_an_error(self, kernel: Run, serve: Serve) -> None:
        (endpoint,) = serve("echo?mode=generate&count=3&size_bytes=5", TCP)
        code, _, err = kernel("echo", endpoint, "hello", "--timeout", "2")
        assert code == 1
        assert "error: " in err

    def test_a_raw_echo_that_is_asked_for_channels_is_explained(self, kernel: Run, echoes: dict[str, str]) -> None:
        code, _, err = kernel("echo", echoes["raw"].replace("?framing=raw", ""), "hello")
        assert code == 1
        assert "it may serve ?framing=raw" in err

    def test_nobody_there(self, kernel: Run) -> None:
        code, out, err = kernel("echo", "tcp://127.0.0.1:1", "hello")
        assert (code, out, err.count("\n")) == (1, "", 1)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["hello", "--size", "5"], "--size is for generated payloads"),
        (["hello", "--whole"], "--whole is for standard input"),
        (["-", "--count", "5"], "--count is not for standard input"),
        (["hello", "--load"], "TEXT does not go with --load"),
        (["hello", "--connections", "5"], "--connections belongs to --load"),
        (["hello", "--timeout", "0"], "--timeout must be more than 0"),
        (["--size", "many"], "'many' is no number of bytes: write 512, 64KiB or 1MiB"),
        (["--size", "9" * 18 + "GiB"], "GiB' is no number of bytes"),
        (["--size", "9" * 5000], "9' is no number of bytes"),
        (["--timeout", "9" * 400], "9' is no length of time"),
        (["--interval", "soon"], "'soon' is no length of time: write 0.5, 500ms, 30s, 5m or 1h"),
        (["--count", "0"], "0 is not in the range"),
        (["--expect", "lower"], "'verbatim', 'upper', 'any'"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(kernel: Run, arguments: list[str], what: str) -> None:
    code, out, err = kernel("echo", "tcp://127.0.0.1:1", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert what in err


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_fault(echoes: dict[str, str], environ: dict[str, str], closed: str) -> None:
    """Without care the connection would get the number of a closed one, and what is printed would go there."""
    command = f'exec "$0" echo "$1" hello {closed}'
    done = subprocess.run(
        ["/bin/sh", "-c", command, KERNEL, echoes["knl"]], capture_output=True, text=True, env=environ, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("" if ">&-" in closed.replace("2>&-", "") else "hello\n")


def test_more_connections_than_descriptors_are_refused(echoes: dict[str, str], environ: dict[str, str]) -> None:
    command = 'ulimit -n 64 && exec "$0" echo "$1" --load --connections 60'
    done = subprocess.run(
        ["/bin/sh", "-c", command, KERNEL, echoes["knl"]], capture_output=True, text=True, env=environ, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("kernel: error: 60 connections need more file descriptors than the 64 ")


def test_a_listener_with_another_framing_is_thought_of(kernel: Run, echoes: dict[str, str]) -> None:
    code, _, err = kernel("echo", echoes["line"].replace("?framing=line", ""), "hello", "--timeout", "200ms")
    assert code == 1
    assert "took the connection, and did not answer within 0.2 s" in err
    assert "for example ?framing=line" in err


def test_a_lost_datagram_is_a_loss_and_the_next_goes_on(kernel: Run) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        endpoint = f"udp://127.0.0.1:{silent.getsockname()[1]}?framing=raw"
        code, out, err = kernel("echo", endpoint, "hello", "--count", "3", "--timeout", "50ms")
        assert (code, out) == (1, "")
        assert err.startswith("3 sent, 0 received, 3 lost (100%)")
        assert [silent.recv(100) for _ in range(3)] == [b"hello"] * 3


@pytest.mark.parametrize("arguments", [["--count", "1"], ["--load", "--seconds", "0.1"]])
def test_what_a_datagram_cannot_hold_is_refused(kernel: Run, echoes: dict[str, str], arguments: list[str]) -> None:
    code, _, err = kernel("echo", echoes["udp raw"], "--size", "65508", *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert "carries at most 65,507 bytes a message, not 65,508" in err


def test_a_raw_stream_has_no_empty_message(kernel: Run, echoes: dict[str, str]) -> None:
    code, _, err = kernel("echo", echoes["raw"], "")
    assert code == 2
    assert "a raw stream has no empty messages" in err


class TestLoad:
    @pytest.mark.parametrize("framing", ["knl", "raw", "line", "unix", "udp", "udp raw"])
    def test_it_reports_throughput_and_latency(self, kernel: Run, echoes: dict[str, str], framing: str) -> None:
        arguments = ["--load", "--connections", "3", "--in-flight", "5", "--size", "100", "--seconds", "0.2"]
        code, out, err = kernel("echo", echoes[framing], *arguments, "--json")
        report = json.loads(out)
        assert (code, err) == (0, "")
        assert (report["connections"], report["in_flight"], report["size"]) == (3, 5, 100)
        assert report["messages"] > 15
        assert (report["corrupt"], report["lost"], report["errors"]) == (0, 0, 0)
        assert report["messages_per_second"] == pytest.approx(report["messages"] / report["seconds"])
        assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99.9"] <= report["latency_ms"]["max"]

    def test_for_people(self, kernel: Run, echoes: dict[str, str]) -> None:
        code, out, err = kernel("echo", echoes["knl"], "--load", "--seconds", "0.1")
        assert (code, err) == (0, "")
        first, second, third = out.splitlines()
        assert first == "1 connections x 1 in flight x 64 bytes, 0 corrupt, 0 lost, 0 errors"
        assert "messages/s" in second
        assert third.startswith("latency in ms: min ")

    def test_wrong_replies_are_an_error(self, kernel: Run, serve: Serve) -> None:
        (endpoint,) = serve("echo?mode=upper", TCP)
        code, out, _ = kernel("echo", endpoint, "--load", "--seconds", "0.1", "--json")
        report = json.loads(out)
        assert code == 1
        assert report["corrupt"] == report["messages"] > 0

    def test_no_replies_are_losses(self, kernel: Run, serve: Serve) -> None:
        (endpoint,) = serve("echo?mode=sink", TCP)
        code, out, _ = kernel(
            "echo", endpoint, "--load", "--in-flight", "4", "--seconds", "0.1", "--timeout", "0.1", "--json"
        )
        report = json.loads(out)
        assert (code, report["messages"], report["lost"]) == (1, 0, 4)

    def test_lost_datagrams_are_counted_and_replaced(self, kernel: Run) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            endpoint = f"udp://127.0.0.1:{silent.getsockname()[1]}?framing=raw"
            code, out, _ = kernel("echo", endpoint, "--load", "--seconds", "0.3", "--timeout", "50ms", "--json")
        report = json.loads(out)
        assert (code, report["messages"]) == (1, 0)
        assert report["lost"] >= 2

    def test_a_server_that_closes_is_an_error(self, kernel: Run, serve: Serve) -> None:
        (endpoint,) = serve("echo?mode=greeting", TCP)
        code, out, err = kernel("echo", endpoint, "--load", "--seconds", "5", "--json")
        report = json.loads(out)
        assert code == 1
        assert report["errors"] == 1
        assert report["seconds"] < 5
        assert "a connection ended" in err


class Terminal:
    """The command with a terminal for its standard streams."""

    def __init__(self, arguments: list[str], environ: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [KERNEL, "echo", *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environ
        )
        os.close(theirs)
        self._guard = threading.Timer(TIMEOUT_SECONDS, self._process.kill)
        self._guard.start()

    def read_until(self, text: bytes) -> bytes:
        seen = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while text not in seen:
                seen += os.read(self._ours, 4096)
        return seen

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def wait(self) -> int:
        """Until the command has ended; the exit code."""
        return self._process.wait()

    def close(self) -> None:
        """Leave nothing behind, whatever the test has done."""
        self._process.kill()
        self.wait()
        self._guard.cancel()
        os.close(self._ours)


class TestTerminal:
    """What only a terminal gets, and Ctrl-C."""

    @pytest.fixture
    def terminal(self, environ: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
        started: list[Terminal] = []

        def start(*arguments: str) -> Terminal:
            started.append(Terminal(list(arguments), environ))
            return started[-1]

        yield start
        for terminal in started:
            terminal.close()

    def test_without_arguments_it_pings_until_interrupted(self, terminal: Start, echoes: dict[str, str]) -> None:
        shown = terminal(echoes["knl"])
        assert b"64 bytes from " in shown.read_until(b"seq=2")
        shown.interrupt()
        assert b" sent, " in shown.read_until(b"p50/p90/p99")
        assert shown.wait() == 130

    def test_an_interrupted_load_reports_too(self, terminal: Start, echoes: dict[str, str]) -> None:
        shown = terminal(echoes["knl"], "--load", "--seconds", "1h")
        assert b" messages/s, " in shown.read_until(b"p99")
        shown.interrupt()
        assert b"latency in ms" in shown.read_until(b"latency in ms")
        assert shown.wait() == 130

    def test_what_steers_a_terminal_is_escaped_there(self, terminal: Start, serve: Serve) -> None:
        (endpoint,) = serve("echo?mode=greeting&text=%1b[31mred%07%c2%9b", TCP)
        shown = terminal(endpoint, "x", "--expect", "any")
        assert shown.read_until(b"round trip").startswith(rb"\x1b[31mred\x07\xc2\x9b")
        assert shown.wait() == 0


def test_a_reader_that_goes_away_is_no_error(echoes: dict[str, str], environ: dict[str, str]) -> None:
    script = f"{KERNEL} echo '{echoes['knl']}' hello --interval 1ms -q | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=TIMEOUT_SECONDS, env=environ)
    assert (done.stdout, done.stderr) == (b"hello\n0\n", b"")
