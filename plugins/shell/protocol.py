"""The messages of a shell channel, as bytes and back. docs/protocol-shell.md is the specification.

The first byte of each message is its kind. One channel carries one command: the client's first message is REQUEST, the
server's last one EXIT. Each of the three streams has a window of its own, so one that nobody reads holds up neither the
others nor a signal: whoever sends on a stream spends its window, and whoever has passed the bytes on gives it back.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any

from kernel.errors import KernelError
from kernel.limits import KIB

WINDOW_BYTES = 448 * KIB
"""Of each stream. Both outputs together fit the credit of a channel, so no message of another kind ever waits."""
CHUNK_BYTES = 64 * KIB - 1
"""What one message carries of a stream, so that it fills a frame with its kind before it."""
REQUEST_BYTES_MAX = 256 * KIB
_WINDOW_BYTES_MAX = 1024 * KIB
_CELLS_MAX = 65_535

_TERM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")

_CREDIT = struct.Struct(">BBI")
_RESIZE = struct.Struct(">BHH")


class Kind(IntEnum):
    """The first byte of a message."""

    REQUEST = 1
    STARTED = 2
    STDIN = 3
    STDOUT = 4
    STDERR = 5
    END = 6
    CREDIT = 7
    SIGNAL = 8
    RESIZE = 9
    EXIT = 10
    DETACH = 11


STDIN, STDOUT, STDERR = bytes([Kind.STDIN]), bytes([Kind.STDOUT]), bytes([Kind.STDERR])
END_OF_STDIN = bytes([Kind.END, Kind.STDIN])
DETACH = bytes([Kind.DETACH])


class ProtocolError(KernelError):
    """The peer sent what no message is."""


@dataclass(frozen=True, slots=True)
class Terminal:
    """The terminal that a command shall have."""

    columns: int = 80
    rows: int = 24
    term: str = "xterm-256color"

    @classmethod
    def read(cls, value: Any) -> Terminal:
        columns, rows, term = _typed(value, columns=(int, 80), rows=(int, 24), term=(str, "xterm-256color"))
        if not _TERM.fullmatch(term):
            raise ProtocolError("the terminal's type is no name of one")
        return cls(min(max(columns, 1), _CELLS_MAX), min(max(rows, 1), _CELLS_MAX), term)


@dataclass(frozen=True, slots=True)
class Request:
    """What a client wants to have run.

    Attributes:
        argv: the command line; empty: the shell.
        env: variables to set.
        cwd: where to start; empty: the server decides.
        offers: variables to set as far as the server lets clients set them.
        timeout_seconds: when to end it; 0: the server decides.
        terminal: give it one; None: three pipes.
        window_bytes: how much of each output stream may be on its way to the client.
        attach: the session to join, in place of running anything.
        received: so much of its output has arrived; what came after that follows again.
    """

    argv: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    offers: dict[str, str] = field(default_factory=dict)
    cwd: str = ""
    timeout_seconds: float = 0.0
    terminal: Terminal | None = None
    window_bytes: int = WINDOW_BYTES
    attach: str = ""
    received: int = 0

    def encode(self) -> bytes:
        return _pack(Kind.REQUEST, asdict(self))

    @classmethod
    def decode(cls, message: bytes) -> Request:
        """Read the client's first message.

        Raises:
            ProtocolError: it is none.
        """
        if message[:1] != bytes([Kind.REQUEST]):
            raise ProtocolError("the first message of a shell channel is a request")
        if len(message) > REQUEST_BYTES_MAX:
            raise ProtocolError(f"the request has {len(message):,} bytes, the limit is {REQUEST_BYTES_MAX:,}")
        given = _unpack(message)
        argv, env, offers, cwd, timeout, window, attach, received = _typed(
            given,
            argv=(list, []),
            env=(dict, {}),
            offers=(dict, {}),
            cwd=(str, ""),
            timeout_seconds=((int, float), 0),
            window_bytes=(int, WINDOW_BYTES),
            attach=(str, ""),
            received=(int, 0),
        )
        try:
            timeout_seconds = max(0.0, float(timeout))
        except OverflowError:  # a whole number beyond all measure
            timeout_seconds = 0.0
        _check_texts([*argv, *env, *env.values(), *offers, *offers.values(), cwd])
        if any("=" in name or not name for name in (*env, *offers)):
            raise ProtocolError("the name of a variable is empty or holds '='")
        terminal = None if given.get("terminal") is None else Terminal.read(given["terminal"])
        window = min(max(window, CHUNK_BYTES), _WINDOW_BYTES_MAX)
        return cls(argv, env, offers, cwd, timeout_seconds, terminal, window, attach, max(0, received))


@dataclass(frozen=True, slots=True)
class Started:
    """The command runs.

    Attributes:
        session: by which a terminal can be joined again; empty: it cannot.
        window_bytes: how much of stdin may be on its way.
        cut: the past is not complete: what was on the screen is unknown.
        keep_seconds: how long it would wait for a client that was lost.
        consumed: how much of the input has been taken, over all connections.
    """

    session: str = ""
    window_bytes: int = WINDOW_BYTES
    cut: bool = False
    keep_seconds: float = 0.0
    consumed: int = 0

    def encode(self) -> bytes:
        return _pack(Kind.STARTED, asdict(self))

    @classmethod
    def decode(cls, message: bytes) -> Started:
        return cls(
            *_typed(
                _unpack(message),
                session=(str, ""),
                window_bytes=(int, 0),
                cut=(bool, False),
                keep_seconds=((int, float), 0.0),
                consumed=(int, 0),
            )
        )


@dataclass(frozen=True, slots=True)
class Exit:
    """How the command ended: with a status or by a signal.

    Attributes:
        status: the exit status; None: a signal ended it.
        signal: its name, `TERM`; empty: none did.
        reason: why the server ended it, for people; empty: it did not.
        timed_out: the server ended it because its time was up.
    """

    status: int | None = None
    signal: str = ""
    reason: str = ""
    timed_out: bool = False

    def encode(self) -> bytes:
        return _pack(Kind.EXIT, asdict(self))

    @classmethod
    def decode(cls, message: bytes) -> Exit:
        given = _unpack(message)
        name, reason, timed_out = _typed(given, signal=(str, ""), reason=(str, ""), timed_out=(bool, False))
        status = given.get("status")
        return cls(status if isinstance(status, int) else None, name, reason, timed_out)


def credit(stream: Kind, nbytes: int) -> bytes:
    """So much more may be sent on a stream."""
    return _CREDIT.pack(Kind.CREDIT, stream, nbytes)


def read_credit(message: bytes) -> tuple[int, int]:
    """The stream and the bytes of a CREDIT message."""
    _, stream, nbytes = _unpacked(_CREDIT, message)
    return stream, nbytes


def resize(columns: int, rows: int) -> bytes:
    """The terminal has another size."""
    return _RESIZE.pack(Kind.RESIZE, min(columns, _CELLS_MAX), min(rows, _CELLS_MAX))


def read_resize(message: bytes) -> tuple[int, int]:
    """Columns and rows of a RESIZE message."""
    _, columns, rows = _unpacked(_RESIZE, message)
    return columns, rows


def signal_message(name: str) -> bytes:
    """Signal the command's process group: `INT`, `TERM`."""
    return bytes([Kind.SIGNAL]) + name.encode("ascii")


def _unpacked(layout: struct.Struct, message: bytes) -> tuple[int, ...]:
    if len(message) != layout.size:
        raise ProtocolError(f"a message of kind {message[0]} has {layout.size} bytes, not {len(message)}")
    return layout.unpack(message)


def _pack(kind: Kind, fields: dict[str, Any]) -> bytes:
    # JSON in ASCII carries any bytes that a command line can hold, as lone surrogates.
    return bytes([kind]) + json.dumps(fields, separators=(",", ":")).encode("ascii")


def _unpack(message: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(message[1:], parse_constant=_no_number)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise ProtocolError("what follows the kind of this message is not a JSON object")
    return fields


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _typed(given: Any, **fields: tuple[Any, Any]) -> list[Any]:
    """The fields in order, each of its type; those that are missing have their default, unknown ones are ignored."""
    values = []
    if not isinstance(given, dict):
        raise ProtocolError("a JSON object was expected")
    for name, (kind, default) in fields.items():
        value = given.get(name, default)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ProtocolError(f"the field '{name}' has the wrong type")
        values.append(value)
    return values


def _check_texts(texts: list[Any]) -> None:
    for text in texts:
        if not isinstance(text, str) or "\0" in text:
            raise ProtocolError("a command line or variable holds what is not text, or a NUL")
        try:
            text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise ProtocolError("a command line or variable holds characters that no system takes") from None
