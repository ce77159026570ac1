"""The blocking client against a server in another thread; what ends a process is tried in a process of its own."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from queue import Queue

import pytest

from kernel import (
    Channel,
    ChannelClosed,
    Code,
    DialError,
    EndpointError,
    Keyring,
    Limits,
    Refused,
    Server,
    Service,
    blocking,
)
from kernel.auth.keys import new_key

GUARD_SECONDS = 30


class Recorder(Service):
    """Keeps what it gets, and how each channel ended; `bye` makes it reset the channel, `quit` finish it."""

    name = "recorder"

    def __init__(self) -> None:
        self.messages: Queue[bytes] = Queue()
        self.ends: Queue[Code] = Queue()

    def on_message(self, channel: Channel, message: bytes) -> None:
        self.messages.put(message)
        if message == b"bye":
            channel.reset(Code.OVERLOADED, "enough of this")
        elif message == b"quit":
            channel.send(b"bye")
            channel.finish()

    def on_finish(self, channel: Channel) -> None:
        if channel.code is None:
            channel.finish()

    def on_closed(self, channel: Channel, code: Code, reason: str) -> None:
        self.ends.put(code)


class Background:
    """A server in a thread of its own."""

    def __init__(self, *plugins: str | Service, listen: str = "tcp://127.0.0.1:0", keys: Keyring | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.server = Server(plugins, [listen], keys=keys)
        self.run(self.server.start())
        self.endpoint = str(self.server.endpoints[0])

    def run(self, work):
        """Do something in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(GUARD_SECONDS)

    def stop(self) -> None:
        self.run(self.server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Background]]:
    started: list[Background] = []

    def start(*plugins: str | Service, **settings: object) -> Background:
        started.append(Background(*plugins, **settings))
        return started[-1]

    yield start
    for background in started:
        background.stop()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def script(source: str, endpoint: str) -> subprocess.Popen[str]:
    imports = "import os, signal, sys, threading\nfrom kernel import blocking\n"
    # From 3.12 on Python warns of every fork beside a thread; that it works out for us is what is tried.
    warnings = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")
    return subprocess.Popen(
        [sys.executable, *warnings, "-c", imports + source, endpoint],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its exit code and what else it printed; one that hangs is killed, and fails."""
    try:
        out, err = process.communicate(timeout=GUARD_SECONDS)
    finally:
        process.kill()
    return process.returncode, out, err


# --- talking -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listen", ["tcp://127.0.0.1:0", "tcp://127.0.0.1:0?framing=length", "udp://127.0.0.1:0"])
def test_messages_go_and_come(serve: Callable[..., Background], listen: str):
    with blocking.connect(serve("echo", listen=listen).endpoint, "echo") as channel:
        for message in (b"hello", bytearray(b"world"), memoryview(b"!"), b""):
            channel.send(message)
            assert channel.receive(GUARD_SECONDS) == bytes(message)


def test_iteration_ends_when_the_server_has_finished(serve: Callable[..., Background]):
    messages = [b"%d" % number for number in range(5000)]
    with blocking.connect(serve("echo").endpoint, "echo") as channel:
        channel.send_many(messages)
        channel.finish()
        assert list(channel) == messages
        assert channel.receive() is None


def test_it_tells_who_is_there(serve: Callable[..., Background]):
    background = serve("echo")
    with blocking.connect(background.endpoint, "echo") as channel:
        assert (channel.service, channel.peer.transport, channel.code) == ("echo", "tcp", None)
        assert background.endpoint == f"tcp://{channel.peer.address}"
    assert channel.code is Code.OK


def test_the_caller_may_go_on_when_the_server_has_finished(serve: Callable[..., Background], recorder: Recorder):
    with blocking.connect(serve(recorder).endpoint, "recorder") as channel:
        channel.send(b"quit")
        assert list(channel) == [b"bye"]
        channel.send(b"after")
    assert [recorder.messages.get(timeout=GUARD_SECONDS) for _ in range(2)] == [b"quit", b"after"]


def test_all_channels_share_one_thread(serve: Callable[..., Background]):
    endpoint = serve("echo").endpoint
    with blocking.connect(endpoint, "echo") as one, blocking.connect(endpoint, "echo") as other:
        assert [thread.name for thread in threading.enumerate()].count("kernel-blocking") == 1
        one.send(b"one")
        other.send(b"other")
        assert (other.receive(GUARD_SECONDS), one.receive(GUARD_SECONDS)) == (b"other", b"one")


def test_the_server_gets_its_answers_while_the_caller_is_elsewhere(serve: Callable[..., Background]):
    background = serve("echo")
    with blocking.connect(background.endpoint, "echo"):
        (channel,) = background.server.channels
        assert background.run(channel._link.ping()) > 0


# --- errors, as the other client raises them -----------------------------------------------------------------------


def test_what_fails_fails_where_it_was_called(serve: Callable[..., Background]):
    with pytest.raises(DialError, match="nobody listens there"):
        blocking.connect("tcp://127.0.0.1:1", "echo")
    with pytest.raises(EndpointError):
        blocking.connect("nowhere", "echo")
    with pytest.raises(Refused, match="there is no service 'eco'"):
        blocking.connect(serve("echo").endpoint, "eco")


def test_a_server_that_says_nothing_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DialError, match="did not answer within"):
        blocking.connect(f"tcp://127.0.0.1:{silent.getsockname()[1]}", "echo", timeout_seconds=0.1)


def test_a_key_proves_who_calls():
    key = new_key("alice")
    server = Background("echo", keys=Keyring([key]))
    try:
        with blocking.connect(server.endpoint, "echo", keys=Keyring([key])) as channel:
            channel.send(b"hello")
            assert channel.receive(GUARD_SECONDS) == b"hello"
        with pytest.raises(DialError):
            blocking.connect(server.endpoint, "echo")
    finally:
        server.stop()


def test_a_reset_comes_after_the_messages_before_it(serve: Callable[..., Background], recorder: Recorder):
    with blocking.connect(serve(recorder).endpoint, "recorder") as channel:
        channel.send(b"bye")
        with pytest.raises(ChannelClosed, match="enough of this") as caught:
            channel.receive(GUARD_SECONDS)
        assert caught.value.code is channel.code is Code.OVERLOADED
        with pytest.raises(ChannelClosed, match="enough of this"):
            channel.send(b"are you there?")


def test_nothing_is_sent_after_the_end(serve: Callable[..., Background]):
    channel = blocking.connect(serve("echo").endpoint, "echo")
    channel.finish()
    with pytest.raises(ChannelClosed):
        channel.send(b"late")
    channel.close()
    channel.close()
    with pytest.raises(ChannelClosed):
        channel.send(b"later")


def test_a_time_out_loses_nothing(serve: Callable[..., Background]):
    with blocking.connect(serve("echo?delay_seconds=100ms").endpoint, "echo") as channel:
        channel.send(b"slow")
        with pytest.raises(TimeoutError, match=r"no message from .* within 0\.001 s"):
            channel.receive(0.001)
        assert channel.receive(GUARD_SECONDS) == b"slow"


def test_leaving_by_an_exception_tells_the_server(serve: Callable[..., Background], recorder: Recorder):
    endpoint = serve(recorder).endpoint
    with pytest.raises(ZeroDivisionError), blocking.connect(endpoint, "recorder"):
        _ = 1 / 0
    assert recorder.ends.get(timeout=GUARD_SECONDS) is Code.CANCELLED
    blocking.connect(endpoint, "recorder").close()
    assert recorder.ends.get(timeout=GUARD_SECONDS) is Code.OK


# --- back-pressure -----------------------------------------------------------------------------------------------


def test_an_inbox_that_is_not_emptied_holds_the_server_back(serve: Callable[..., Background]):
    count = 2000
    background = serve(f"echo?mode=generate&size_bytes=10000&count={count}")
    with blocking.connect(background.endpoint, "echo") as channel:
        inbox = channel._inbox
        with inbox.changed:
            assert inbox.changed.wait_for(lambda: inbox.paused, GUARD_SECONDS)
        (theirs,) = background.server.channels
        for _ in range(200):  # whatever is still on its way arrives before the answer to a ping
            background.run(theirs._link.ping())
        assert inbox.held_bytes <= 2 * Limits().channel_credit_bytes
        assert sum(len(message) for message in channel) == count * 10_000


def test_sending_waits_for_a_server_that_reads_slowly(serve: Callable[..., Background]):
    total = 40 * 1024 * 1024
    with socket.create_server(("127.0.0.1", 0)) as listening:
        received: Queue[int] = Queue()

        def read_all() -> None:
            peer, _ = listening.accept()
            with peer:
                received.put(sum(iter(lambda: len(peer.recv(4096)), 0)))

        reader = threading.Thread(target=read_all)
        reader.start()
        with blocking.connect(f"tcp://127.0.0.1:{listening.getsockname()[1]}?framing=raw") as channel:
            for _ in range(40):
                channel.send(bytes(total // 40))
                assert not channel._channel.full
        assert received.get(timeout=GUARD_SECONDS) == total
        reader.join()


# --- processes ---------------------------------------------------------------------------------------------------


def test_ctrl_c_interrupts_a_receive_and_the_channel_lives_on(serve: Callable[..., Background]):
    process = script(
        """
with blocking.connect(sys.argv[1], "echo") as channel:
    try:
        print("waiting", flush=True)
        channel.receive()
    except KeyboardInterrupt:
        channel.send(b"still here")
        print(channel.receive(10))
""",
        serve("echo").endpoint,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    assert ended(process) == (0, "b'still here'\n", "")


def test_what_was_sent_leaves_before_the_process_ends(serve: Callable[..., Background], recorder: Recorder):
    process = script(
        """
channel = blocking.connect(sys.argv[1], "recorder")
threading.Thread(target=channel.receive, daemon=True).start()
channel.send_many([b"last"] * 999 + [b"words"])
""",
        serve(recorder).endpoint,
    )
    assert ended(process) == (0, "", "")
    assert [recorder.messages.get(timeout=GUARD_SECONDS) for _ in range(1000)][-1] == b"words"
    assert recorder.ends.get(timeout=GUARD_SECONDS) is Code.OK


def test_a_child_made_by_fork_has_to_connect_itself(serve: Callable[..., Background]):
    process = script(
        """
channel = blocking.connect(sys.argv[1], "echo")
if os.fork() == 0:
    for use in (lambda: channel.send(b"x"), channel.receive, channel.close):
        try:
            use()
        except Exception as error:
            print(type(error).__name__, error, flush=True)
    with blocking.connect(sys.argv[1], "echo") as own:
        own.send(b"child")
        print(own.receive(10), flush=True)
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.wait()[1]))
channel.send(b"parent")
print(channel.receive(10))
""",
        serve("echo").endpoint,
    )
    refusal = "UsageError this channel was opened before the process forked: connect again in the child\n"
    assert ended(process) == (0, f"{refusal * 3}b'child'\n7\nb'parent'\n", "")
