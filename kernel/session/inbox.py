"""What a KNL/1 session receives on its channels: messages out of DATA frames, and the credit that pays for them.

Credit that we grant: a window is spent as frames arrive and given back as the service consumes them, in halves of the
window, so that CREDIT frames stay rare. While a long message is being put together nobody can consume it, so its frames
are given back at once, as long as the service holds nothing else of that stream (then they wait in `unread_bytes`): the
service never holds more than a window and one long message of a stream. Of all streams together it holds no more than
`assembly_bytes_max` of long messages before the connection's credit waits for it, too.
"""

from __future__ import annotations

import struct
from collections import deque

from kernel.errors import Code
from kernel.framing import knl
from kernel.framing.interface import Assembler, Engine
from kernel.limits import Limits
from kernel.session.account import NOTHING, Account
from kernel.session.base import Fault, Finished, Messages, Piece, Stream
from kernel.session.outbox import Outbox

_CREDIT = struct.Struct(">I")
_MESSAGE_BYTES = struct.Struct(">Q")
_MESSAGE_BYTES_MAX = 2**63 - 1


class StreamFault(Exception):
    """What the peer wants to send is not taken here: its stream is reset, the connection lives on."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class ReceiveState:
    """What the inbox keeps for a stream.

    Attributes:
        unread_bytes: cost of a long message's frames that wait until the service has consumed what it holds.
        held_long_bytes: long messages among what the service holds.
        early: runs of DATA that came before the service has said how it wants them: flags, payloads, cost.
        assembler: where the long message that is arriving is put together; None in pieces mode.
    """

    __slots__ = ("assembler", "early", "held_long_bytes", "unread_bytes")

    def __init__(self) -> None:
        self.unread_bytes = 0
        self.held_long_bytes = 0
        self.early: deque[tuple[int, list[bytes], int]] = deque()
        self.assembler: Assembler | None = None


class Inbox:
    """The receiving half of a session; its events go where the outbox's go, its CREDIT frames into the outbox.

    Args:
        account: the connection's.
    """

    __slots__ = ("_account", "_assembly_bytes", "_engine", "_held_long_bytes", "_limits", "_outbox")

    def __init__(self, limits: Limits, engine: Engine, outbox: Outbox, account: Account) -> None:
        self._limits = limits
        self._engine = engine
        self._outbox = outbox
        self._account = account
        self._assembly_bytes = 0
        self._held_long_bytes = 0

    # --- for a lane ----------------------------------------------------------------------------------------------

    @property
    def at_rest(self) -> bool:
        """The connection's credit waits for nothing but its half."""
        return self._held_long_bytes <= self._limits.assembly_bytes_max

    def is_idle(self, stream: Stream) -> bool:
        """Nothing of the stream is kept here."""
        state: ReceiveState = stream.state.receive
        return state.assembler is None and not state.early and not state.unread_bytes

    def hold(self, stream: Stream, nbytes: int, *, over: bool) -> None:
        """DATA has reached a service by a lane; `over`: the stream was so when it returned."""
        if over:
            self._grant_connection(nbytes)
        else:
            stream.held_bytes += nbytes

    # --- frames in -----------------------------------------------------------------------------------------------

    def spend(self, stream: Stream, cost: int) -> None:
        """Frames have come that cost so much of both credits.

        Raises:
            Fault: it is more than there is.
        """
        account = stream.account
        self._spend_connection(cost)
        account.receive_credit_bytes -= cost
        if account.receive_credit_bytes < 0:
            raise Fault(
                Code.FLOW_CONTROL,
                f"{-account.receive_credit_bytes} bytes more than the credit of channel {stream.channel}",
            )

    def receive(self, stream: Stream, flags: int, payloads: list[bytes], cost: int) -> None:
        """A run of DATA frames without FIN, whose cost is spent.

        Raises:
            Fault: frames that make no message.
            StreamFault: a message that is too long for us.
        """
        if not stream.remote_open:
            raise Fault(Code.PROTOCOL, f"DATA after FIN on channel {stream.channel}")
        if stream.account.arriving_bytes == NOTHING and not flags & (knl.BEGIN | knl.MORE):
            self._deliver(stream, payloads, cost)
        else:
            self._receive_long(stream, flags, payloads)

    def finish(self, stream: Stream, payloads: list[bytes]) -> None:
        """FIN, which costs nothing."""
        if payloads != [b""]:
            raise Fault(Code.PROTOCOL, f"FIN on channel {stream.channel} carries data or comes twice")
        if not stream.remote_open or stream.account.arriving_bytes != NOTHING:
            raise Fault(Code.PROTOCOL, f"FIN on channel {stream.channel} comes twice, or inside a message")
        stream.remote_open = False
        self._outbox.events.append(Finished(stream))

    def discard(self, cost: int) -> None:
        """Late DATA for a channel that is gone: it cost the connection's credit, which is given back."""
        self._spend_connection(cost)
        self._grant_connection(cost)

    def _spend_connection(self, cost: int) -> None:
        account = self._account
        account.receive_credit_bytes -= cost
        if account.receive_credit_bytes < 0:
            raise Fault(Code.FLOW_CONTROL, f"{-account.receive_credit_bytes} bytes more than the connection's credit")

    def _deliver(self, stream: Stream, messages: list[bytes], cost: int) -> None:
        stream.held_bytes += cost
        self._outbox.events.append(Messages(stream, messages, cost))

    # --- messages longer than a frame ------------------------------------------------------------------------------

    def _receive_long(self, stream: Stream, flags: int, payloads: list[bytes]) -> None:
        """A run that continues or begins long messages, and may go on with short ones."""
        for at, payload in enumerate(payloads):
            if stream.account.arriving_bytes == NOTHING and not flags & knl.BEGIN:
                if flags & knl.MORE:
                    raise Fault(Code.PROTOCOL, f"a message on channel {stream.channel} continues that never began")
                self._deliver(stream, payloads[at:], _cost(payloads[at:]))
                return
            part = payload
            if flags & knl.BEGIN:
                try:
                    part = self._begin(stream, payload)
                except StreamFault:
                    self._grant_connection(_cost(payloads[at:]))
                    raise
            self._receive_part(stream, part, _cost([payload]), last=not flags & knl.MORE)

    def _begin(self, stream: Stream, payload: bytes) -> bytes:
        """Read a BEGIN frame's announcement; returns the rest of its payload."""
        account = stream.account
        if account.arriving_bytes != NOTHING:
            raise Fault(Code.PROTOCOL, f"a message on channel {stream.channel} begins inside another")
        if len(payload) < _MESSAGE_BYTES.size:
            raise Fault(Code.PROTOCOL, f"BEGIN on channel {stream.channel} without a length")
        message_bytes: int = _MESSAGE_BYTES.unpack_from(payload)[0]
        if message_bytes > _MESSAGE_BYTES_MAX:
            raise StreamFault(Code.MESSAGE_TOO_LARGE, f"a message of {message_bytes} bytes, nobody has so many")
        if not stream.pieces:
            self._check_length(message_bytes)
            self._assembly_bytes += message_bytes
            state: ReceiveState = stream.state.receive
            state.assembler = self._engine.assembler(message_bytes, self._limits.message_bytes_max)
        account.arriving_bytes = account.arriving_rest_bytes = message_bytes
        return payload[_MESSAGE_BYTES.size :]

    def _check_length(self, message_bytes: int) -> None:
        limits = self._limits
        if message_bytes > limits.message_bytes_max:
            raise StreamFault(
                Code.MESSAGE_TOO_LARGE,
                f"a message of {message_bytes} bytes, the limit is {limits.message_bytes_max} (message_bytes_max)",
            )
        if message_bytes > limits.assembly_bytes_max - self._assembly_bytes:
            raise StreamFault(
                Code.OVERLOADED,
                f"unfinished messages of {self._assembly_bytes + message_bytes} bytes, the limit is "
                f"{limits.assembly_bytes_max} (assembly_bytes_max)",
            )

    def _receive_part(self, stream: Stream, part: bytes, cost: int, *, last: bool) -> None:
        """Some bytes of the long message that is arriving."""
        state: ReceiveState = stream.state.receive
        account = stream.account
        message_bytes = account.arriving_bytes
        account.arriving_rest_bytes -= len(part)
        if account.arriving_rest_bytes < 0 or last != (account.arriving_rest_bytes == 0):
            raise Fault(
                Code.PROTOCOL,
                f"a message of {message_bytes} bytes on channel {stream.channel} ends with "
                f"{account.arriving_rest_bytes} bytes missing",
            )
        if last:
            account.arriving_bytes = NOTHING
        if state.assembler is None:
            stream.held_bytes += cost
            self._outbox.events.append(Piece(stream, part, message_bytes, last, cost))
            return
        message = state.assembler.add(part)
        if message is not None:
            state.assembler = None
            self._assembly_bytes -= message_bytes
            self._held_long_bytes += message_bytes
            state.held_long_bytes += message_bytes
            self._deliver(stream, [message], cost)
        elif stream.held_bytes:
            state.unread_bytes += cost
        else:
            self._grant(stream, cost)

    # --- credit ----------------------------------------------------------------------------------------------------

    def consumed(self, stream: Stream, nbytes: int) -> None:
        """The service is done with so much."""
        state: ReceiveState = stream.state.receive
        stream.held_bytes -= nbytes
        if not stream.held_bytes:
            nbytes += state.unread_bytes
            state.unread_bytes = 0
            self._held_long_bytes -= state.held_long_bytes
            state.held_long_bytes = 0
        self._grant(stream, nbytes)

    def forget(self, stream: Stream) -> None:
        """The stream is over: what it held of the connection is given back."""
        state: ReceiveState = stream.state.receive
        if state.assembler is not None and stream.account.arriving_bytes != NOTHING:
            self._assembly_bytes -= stream.account.arriving_bytes
        stream.account.arriving_bytes = NOTHING
        state.assembler = None
        self._held_long_bytes -= state.held_long_bytes
        early_bytes = sum(cost for _, _, cost in state.early)
        state.early.clear()
        self._grant_connection(stream.held_bytes + state.unread_bytes + early_bytes)

    def _grant(self, stream: Stream, nbytes: int) -> None:
        account = stream.account
        account.ungranted_bytes += nbytes
        if account.ungranted_bytes * 2 >= self._limits.channel_credit_bytes and stream.remote_open:
            self._outbox.control(knl.CREDIT, stream.channel, _CREDIT.pack(account.ungranted_bytes))
            account.receive_credit_bytes += account.ungranted_bytes
            account.ungranted_bytes = 0
        self._grant_connection(nbytes)

    def _grant_connection(self, nbytes: int) -> None:
        account = self._account
        account.ungranted_bytes += nbytes
        if account.ungranted_bytes * 2 < self._limits.connection_credit_bytes:
            return
        if self._held_long_bytes <= self._limits.assembly_bytes_max:
            self._outbox.control(knl.CREDIT, 0, _CREDIT.pack(account.ungranted_bytes))
            account.receive_credit_bytes += account.ungranted_bytes
            account.ungranted_bytes = 0


def _cost(payloads: list[bytes]) -> int:
    return sum(map(len, payloads)) + knl.HEADER_BYTES * len(payloads)
