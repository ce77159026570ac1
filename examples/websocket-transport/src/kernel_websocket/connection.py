"""One WebSocket: the kernel's connection above, a connection of bytes below, the library's protocol in between.

    below.data_received -> protocol -> events -> receiver
    write -> protocol -> below.write

Invariants: what was written before both ends have shaken hands waits in `_early`. While reading is paused nothing is
delivered: what has been decoded waits in `_events`, and `connection_lost` behind it.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
from collections import deque
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import Event, State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from kernel import Buffer, ChannelClosed, Code, Connection, Principal, Receiver

# A stream is sent in messages of at most that; the other side holds one of them until it is whole.
_PIECE_BYTES = 64 * 1024
# After our goodbye, how long we wait for the other side's.
_LINGER_SECONDS = 2.0


class Manners(NamedTuple):
    """How a connection behaves.

    Attributes:
        keeps_messages: a WebSocket message is a message; off: their payloads are one stream.
        message_bytes_max: the longest WebSocket message that is taken.
        origins: web pages that may connect, besides our own; `*`: all.
        page: browsers that ask for a page get one.
    """

    keeps_messages: bool
    message_bytes_max: int
    origins: tuple[str, ...]
    page: bool


class WebSocketConnection(Connection):
    """See `kernel.Connection` for what each method promises.

    Args:
        below: a stream, not started.
        host: whom a client calls; empty: this is the server's end.
    """

    def __init__(self, below: Connection, manners: Manners, host: str) -> None:
        self._below = below
        self._manners = manners
        self._protocol: ClientProtocol | ServerProtocol
        if host:
            self._protocol = ClientProtocol(parse_uri(f"ws://{host}/"), max_size=manners.message_bytes_max)
        else:
            self._protocol = ServerProtocol(max_size=manners.message_bytes_max)
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver | None = None
        self._established = False
        self._early: list[bytes] = []
        self._events: deque[Event] = deque()
        self._delivering = False
        self._paused = False
        self._parts: list[bytes] = []
        self._answers_in_text = False
        self._closing = False
        self._error: Exception | None = None
        self._lost: tuple[Exception | None] | None = None
        self._linger: asyncio.TimerHandle | None = None

    # --- the kernel calls --------------------------------------------------------------------------------------------

    @property
    def local(self) -> str:
        return self._below.local

    @property
    def peer(self) -> str:
        return self._below.peer

    @property
    def principal(self) -> Principal:
        return self._below.principal

    @property
    def channel_binding(self) -> bytes:
        return self._below.channel_binding

    @property
    def established(self) -> bool:
        return self._established

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._below.start(self)
        if self._below.established:
            self.connection_established()

    def write(self, buffers: Sequence[Buffer]) -> None:
        if self._closing or self._lost is not None:
            return
        if not self._established:
            self._early += map(bytes, buffers)
            return
        if self._protocol.state is not State.OPEN:  # the other side has said goodbye, or fallen out with us
            return
        if self._manners.keeps_messages:
            for buffer in buffers:
                self._send_message(bytes(buffer))
        else:
            stream = b"".join(buffers)
            for at in range(0, len(stream), _PIECE_BYTES):
                self._protocol.send_binary(stream[at : at + _PIECE_BYTES])
        self._flush()

    @property
    def write_pending_bytes(self) -> int:
        return 0 if self._lost is not None else self._below.write_pending_bytes + sum(map(len, self._early))

    def pause_reading(self) -> None:
        self._paused = True
        if self._established:
            self._below.pause_reading()

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._below.resume_reading()
            self._loop.call_soon(self._deliver)

    def finish_writing(self) -> None:
        """A WebSocket ends in both directions at once."""

    def close(self) -> None:
        if self._closing or self._lost is not None:
            return
        self._closing = True
        self._linger = self._loop.call_later(_LINGER_SECONDS, self._below.close)
        if self._established:
            self._say_goodbye()
        if self._paused:
            self._paused = False
            self._below.resume_reading()
        self._loop.call_soon(self._deliver)

    def abort(self) -> None:
        self._closing = True
        self._early.clear()
        self._events.clear()
        self._below.abort()

    # --- the connection below calls ----------------------------------------------------------------------------------

    def connection_established(self) -> None:
        if isinstance(self._protocol, ClientProtocol):
            self._protocol.send_request(self._protocol.connect())
            self._flush()

    def wanted(self) -> memoryview | None:
        return None

    def filled(self, nbytes: int) -> None:
        raise NotImplementedError("we lend no buffer")

    def messages_received(self, messages: list[bytes]) -> None:
        raise NotImplementedError("there is a stream below")

    def data_received(self, data: Buffer) -> None:
        self._protocol.receive_data(bytes(data))
        self._take()

    def eof_received(self) -> None:
        self._protocol.receive_eof()
        self._take()

    def write_drained(self) -> None:
        if self._receiver is not None and self._established and not self.write_pending_bytes:
            self._receiver.write_drained()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = (self._error or error,)
        self._early.clear()
        if self._linger is not None:
            self._linger.cancel()
        self._deliver()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _take(self) -> None:
        """What the protocol has made of the bytes: events for above, and its own answers for below."""
        self._events.extend(self._protocol.events_received())
        self._flush()
        self._deliver()

    def _flush(self) -> None:
        data = [data for data in self._protocol.data_to_send() if data]
        if data:
            self._below.write(data)

    def _deliver(self) -> None:
        """Hand on what has come, as far as the receiver wants it; then see whether this was the end."""
        if self._delivering:
            return
        self._delivering = True
        try:
            messages: list[bytes] = []
            while self._events and (not self._paused or not self._established):
                event = self._events.popleft()
                if isinstance(event, Frame):
                    messages += self._messages_of(event)
                else:
                    self._on_handshake(event)
                if messages and not (self._events and self._manners.keeps_messages):
                    self._hand_over(messages)
                    messages = []
            if messages:
                self._hand_over(messages)
        finally:
            self._delivering = False
        if not self._events:
            self._after_all()

    def _after_all(self) -> None:
        """Everything that came has been handed on."""
        if self._lost is not None:
            receiver, self._receiver = self._receiver, None
            if receiver is not None:
                receiver.connection_lost(self._lost[0])
            return
        protocol = self._protocol
        if protocol.state is State.OPEN or (protocol.state is State.CONNECTING and protocol.handshake_exc is None):
            return
        if protocol.close_rcvd is None and not self._closing and self._error is None:
            self._error = self._explained()
        if protocol.close_rcvd is not None or not self._closing or protocol.state is State.CLOSED:
            self._below.close()

    def _explained(self) -> ChannelClosed:
        """Why it ended without a goodbye."""
        fault = self._protocol.handshake_exc or self._protocol.parser_exc
        sent = self._protocol.close_sent
        if sent is not None and sent.code == CloseCode.MESSAGE_TOO_BIG:
            limit = self._manners.message_bytes_max
            return ChannelClosed(Code.MESSAGE_TOO_LARGE, f"a WebSocket message has more than {limit} bytes")
        if fault is None or isinstance(fault, EOFError):
            return ChannelClosed(Code.LOST, "the WebSocket ended without a goodbye")
        return ChannelClosed(Code.PROTOCOL, f"this is no WebSocket: {' '.join(str(fault).split())}")

    def _hand_over(self, messages: list[bytes]) -> None:
        if self._closing or self._receiver is None:
            return
        if self._manners.keeps_messages:
            self._receiver.messages_received(messages)
        elif data := b"".join(messages):
            self._receiver.data_received(data)

    def _messages_of(self, frame: Frame) -> list[bytes]:
        """The message that a frame completes, as a list of at most one."""
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return []
        if frame.opcode is not Opcode.CONT:
            self._answers_in_text = frame.opcode is Opcode.TEXT
        self._parts.append(bytes(frame.data))
        if not frame.fin:
            return []
        message = b"".join(self._parts)
        self._parts.clear()
        return [message]

    def _send_message(self, message: bytes) -> None:
        """Text is answered as text, where it is some: a browser shows it as it comes."""
        if self._answers_in_text:
            try:
                message.decode()
            except UnicodeDecodeError:
                pass
            else:
                self._protocol.send_text(message)
                return
        self._protocol.send_binary(message)

    def _say_goodbye(self) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
            self._flush()

    # --- the handshake -----------------------------------------------------------------------------------------------

    def _on_handshake(self, event: Event) -> None:
        if isinstance(event, Request):
            assert isinstance(self._protocol, ServerProtocol)
            self._protocol.send_response(self._answer(self._protocol, event))
            self._flush()
        if self._protocol.state is State.OPEN and not self._established:
            self._open()

    def _open(self) -> None:
        self._established = True
        if self._paused:
            self._below.pause_reading()
        if self._receiver is not None and not self._closing:
            self._receiver.connection_established()
        early, self._early = self._early, []
        closing, self._closing = self._closing, False
        self.write(early)
        self._closing = closing or self._closing
        if closing:
            self._say_goodbye()
        elif early and not self._below.write_pending_bytes:
            self._loop.call_soon(self.write_drained)

    def _answer(self, protocol: ServerProtocol, request: Request) -> Response:
        origin, host = request.headers.get("Origin"), request.headers.get("Host", "")
        if "Upgrade" not in request.headers and self._manners.page and request.path == "/":
            self._error = ChannelClosed(Code.OK, "a browser has got the page")
            return _page()
        if origin is not None and not self._may_come(origin, host):
            self._error = ChannelClosed(Code.FORBIDDEN, f"a web page of {origin} may not connect here")
            return protocol.reject(
                403, f"Pages of {origin} may not connect here: the listener's origins= says which may.\n"
            )
        return protocol.accept(request)

    def _may_come(self, origin: str, host: str) -> bool:
        if origin in self._manners.origins or "*" in self._manners.origins:
            return True
        # Our own page. Who owns a name can let it lead here, so that his pages look like it: with an address he cannot.
        return origin in (f"http://{host}", f"https://{host}") and _is_address(host)


def _is_address(host: str) -> bool:
    """Whether a `Host` is an address, or this machine's own name for itself."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return name == "localhost"
    return True


@functools.cache
def _page_text() -> bytes:
    return resources.files(__package__).joinpath("page.html").read_bytes()


def _page() -> Response:
    text = _page_text()
    headers = Headers(
        {
            "Connection": "close",
            "Content-Length": str(len(text)),
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
            "connect-src 'self' ws: wss:",
        }
    )
    return Response(200, "OK", headers, text)
