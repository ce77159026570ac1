"""A client without `async`, for scripts and for the interactive interpreter.

    from kernel import blocking

    with blocking.connect("tcp://127.0.0.1:7000", "echo") as channel:
        channel.send(b"hello")
        print(channel.receive())

Strategy: one event loop, in one daemon thread, serves all channels of the process, so the server's pings are answered
while the script computes or sleeps. What arrives is put into the channel's inbox by that thread and taken out by the
caller's; what is sent is handed over and waited for, so that errors come out where they belong.

Invariants: a time-out or Ctrl-C in `receive` loses no message; an inbox that is not emptied holds the server back; at
the interpreter's end what was sent still leaves, and nothing waits for long; a child made by fork has no channels.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from kernel.api import Buffer, ChannelHandler, Peer
from kernel.channel import Channel
from kernel.client import Connecting, connect as connect_async
from kernel.endpoint import Endpoint
from kernel.errors import ChannelClosed, Code, UsageError
from kernel.limits import KIB, Limits
from kernel.registry import Registry

if TYPE_CHECKING:
    from kernel.auth.keys import Keyring

T = TypeVar("T")

_INBOX_BYTES_MAX = 256 * KIB
# What a waiting message costs besides its bytes, so that empty ones are bounded too.
_MESSAGE_OVERHEAD_BYTES = 64
# Leaving a channel waits for what was sent, and no longer than this.
_CLOSE_SECONDS = 6.0


def connect(
    endpoint: str | Endpoint,
    service: str = "",
    *,
    keys: Keyring | None = None,
    limits: Limits | None = None,
    registry: Registry | None = None,
    timeout_seconds: float = 10.0,
) -> BlockingChannel:
    """Connect and open one channel; when it ends, the connection does. Close it, or use it in a `with` statement.

    Args:
        endpoint: where, with options: `tcp://127.0.0.1:7000`, `unix:/run/x.sock`, `tcp://h:1?framing=line`.
        service: its name; may be empty where the framing has no channels.
        keys: the first of them proves who we are, and the server must prove that it holds it too.
        limits: what the server may make us hold; None: the defaults.
        registry: where plugins are found; None: all that is installed.
        timeout_seconds: for dialling and the handshake together.

    Raises:
        UsageError: the endpoint is wrong.
        DialError: nobody answered in time, or not in our protocol.
        Refused: the server turned the channel away.
    """
    inbox = _Inbox()
    connecting = connect_async(
        endpoint,
        service,
        handler=inbox,
        keys=keys,
        limits=limits,
        registry=registry,
        timeout_seconds=timeout_seconds,
    )
    thread = _loop_thread()
    visit = _Visit(connecting)
    staying = thread.begin(visit)
    try:
        return BlockingChannel(thread, visit, visit.opened.result(), inbox)
    except BaseException:
        staying.cancel()
        raise


class BlockingChannel:
    """One conversation: a `kernel.Channel` whose methods wait. Made by `connect`; one thread at a time uses it."""

    def __init__(self, thread: _LoopThread, visit: _Visit, channel: Channel, inbox: _Inbox) -> None:
        self._thread = thread
        self._visit = visit
        self._channel = channel
        self._inbox = inbox

    @property
    def service(self) -> str:
        """The service's name."""
        return self._channel.service

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""
        return self._channel.peer

    @property
    def code(self) -> Code | None:
        """Why the channel ended; None while it lives."""
        return self._channel.code

    @property
    def reason(self) -> str:
        """The same for people; empty while it lives."""
        return self._channel.reason

    def send(self, message: Buffer) -> None:
        """Send one message; waits while too much is waiting for the peer to read.

        Raises:
            ChannelClosed: the channel is over, or this side has finished.
            UsageError: the message is larger than the peer takes.
        """
        data = bytes(message)
        self._send(lambda: self._channel.send(data))

    def send_many(self, messages: list[bytes]) -> None:
        """Send messages, in order: as many calls of `send`, at the price of one.

        Raises:
            ChannelClosed, UsageError: as `send`.
        """
        self._send(lambda: self._channel.send_many(messages))

    def receive(self, timeout_seconds: float | None = None) -> bytes | None:
        """The next message; None when the peer has finished.

        Raises:
            ChannelClosed: the channel ended otherwise, after the messages that had come before.
            TimeoutError: nothing came in time; the next call may still get it.
        """
        self._thread.check_process()
        inbox = self._inbox
        with inbox.changed:
            if not inbox.changed.wait_for(lambda: inbox.messages or inbox.finished, timeout_seconds):
                raise TimeoutError(f"no message from {self.peer.address} within {timeout_seconds} s")
            if inbox.messages:
                return self._take()
            if self.code not in (None, Code.OK):
                raise self._ended()
            return None

    def __iter__(self) -> Iterator[bytes]:
        """The messages, until the peer has finished."""
        while (message := self.receive()) is not None:
            yield message

    def finish(self) -> None:
        """Half-close: tell the peer that no more comes. Receiving goes on."""
        self._thread.call(lambda: self._channel.finish())

    def close(self) -> None:
        """Finish, wait until what was sent has left, and end the connection. May be called twice."""
        self._leave(lambda: None)

    def __enter__(self) -> BlockingChannel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._leave(lambda: self._channel.reset(Code.CANCELLED, "the client gave up"))

    def _send(self, send: Callable[[], None]) -> None:
        self._thread.check_process()
        if self._channel.code is not None:
            raise self._ended()
        inbox = self._inbox

        def send_and_look() -> None:
            send()
            inbox.crowded = self._channel.full

        self._thread.call(send_and_look)
        with inbox.changed:
            inbox.changed.wait_for(lambda: not inbox.crowded or self.code is not None)

    def _take(self) -> bytes:
        """A message out of the inbox, which is locked; the server may go on when half of it is empty."""
        inbox = self._inbox
        message = inbox.messages.popleft()
        inbox.held_bytes -= len(message) + _MESSAGE_OVERHEAD_BYTES
        if inbox.paused and inbox.held_bytes <= _INBOX_BYTES_MAX // 2:
            inbox.paused = False
            self._thread.loop.call_soon_threadsafe(self._channel.resume_reading)
        return message

    def _leave(self, before: Callable[[], None]) -> None:
        self._thread.check_process()
        staying = self._thread.visits.get(self._visit)
        if staying is None:
            return

        def leave() -> None:
            before()
            self._visit.over.set()

        self._thread.call(leave)
        with contextlib.suppress(TimeoutError):
            staying.result(_CLOSE_SECONDS)

    def _ended(self) -> ChannelClosed:
        return self._channel.error or ChannelClosed(Code.CANCELLED, "this side has closed the channel")


class _Inbox(ChannelHandler):
    """What the loop's thread tells the caller's; `changed` guards all of it."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.messages: deque[bytes] = deque()
        self.held_bytes = 0
        self.finished = False
        self.paused = False
        self.crowded = False

    def on_messages(self, channel: Channel, messages: list[bytes]) -> None:
        with self.changed:
            self.messages.extend(messages)
            self.held_bytes += sum(map(len, messages)) + _MESSAGE_OVERHEAD_BYTES * len(messages)
            if self.held_bytes > _INBOX_BYTES_MAX and not self.paused:
                self.paused = True
                channel.pause_reading()
            self.changed.notify_all()

    def on_writable(self, channel: Channel) -> None:
        with self.changed:
            self.crowded = False
            self.changed.notify_all()

    def on_finish(self, channel: Channel) -> None:
        """The caller may still have something to say: our side stays open."""
        self._end()

    def on_closed(self, channel: Channel, code: Code, reason: str) -> None:
        self._end()

    def _end(self) -> None:
        with self.changed:
            self.finished = True
            self.changed.notify_all()


class _Visit:
    """A channel's life in the loop: opened, used from outside, left."""

    def __init__(self, connecting: Connecting) -> None:
        self.opened: Future[Channel] = Future()
        self.over = asyncio.Event()
        self._connecting = connecting

    async def stay(self) -> None:
        """Open the channel, and hold it until it is over."""
        try:
            async with self._connecting as channel:
                self.opened.set_result(channel)
                await self.over.wait()
        except BaseException as error:
            if self.opened.done():
                raise
            self.opened.set_exception(error)


class _LoopThread:
    """The event loop of all channels, and the thread in which it runs."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.visits: dict[_Visit, Future[None]] = {}
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="kernel-blocking", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def begin(self, visit: _Visit) -> Future[None]:
        """Open a channel, and keep it until it is left; the future is done when nothing of it is left."""
        staying = self.visits[visit] = asyncio.run_coroutine_threadsafe(visit.stay(), self.loop)
        staying.add_done_callback(lambda _: self.visits.pop(visit))
        return staying

    def call(self, work: Callable[[], T]) -> T:
        """Call something in the loop; waits, and returns or raises what it did."""
        self.check_process()

        async def once() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(once(), self.loop).result()

    def check_process(self) -> None:
        """A child inherits the channel's memory, but neither its thread nor the right to its socket.

        Raises:
            UsageError: this process is such a child.
        """
        if os.getpid() != self._process:
            raise UsageError("this channel was opened before the process forked: connect again in the child")

    def stop(self) -> None:
        """End all channels in order, as far as their servers let us, then the thread."""
        staying = dict(self.visits)
        for visit in staying:
            self.loop.call_soon_threadsafe(visit.over.set)
        wait(staying.values(), _CLOSE_SECONDS)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(1.0)


_lock = threading.Lock()
_current: _LoopThread | None = None


def _loop_thread() -> _LoopThread:
    """The process's loop, started when it is first wanted."""
    global _current
    with _lock:
        if _current is None:
            _current = _LoopThread()
        return _current


@atexit.register
def _stop() -> None:
    if _current is not None:
        _current.stop()


def _forget() -> None:
    """In a child: the parent's loop is kept, for its end would reach into the parent's sockets, and never used."""
    global _current, _lock
    _inherited.append(_current)
    _current, _lock = None, threading.Lock()


_inherited: list[_LoopThread | None] = []
os.register_at_fork(after_in_child=_forget)
