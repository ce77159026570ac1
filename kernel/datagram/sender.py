"""The sending half of a connection: messages are numbered, cut into packets, and let out within the receiver's window.

A message is cut when its turn comes and not before; at most one is half on its way.
"""

from __future__ import annotations

from collections import deque

from kernel.api import Buffer
from kernel.datagram.flow import SendWindow
from kernel.datagram.packets import Hello
from kernel.framing.interface import Engine
from kernel.session.base import Stream

# So many packets of a message count as one when receipts are compared: fine enough for a window of a hundred.
_RUN_PACKETS = 8


class Sender:
    """Cuts and lets out what a stream has queued.

    Args:
        kind: DATA with our direction.
        connection: its id.
        peer: what the peer said of itself.
        packet_bytes_max: our own limit; the smaller one holds.

    Attributes:
        messages: how many have been cut, which is the sequence number of the next one.
        window: how much may be on its way.
    """

    __slots__ = ("_connection", "_cut", "_cut_index", "_engine", "_kind", "_packet_bytes_max", "messages", "window")

    def __init__(self, engine: Engine, kind: int, connection: int, peer: Hello, packet_bytes_max: int) -> None:
        self.messages = 0
        self.window = SendWindow(peer.window_bytes)
        self._engine = engine
        self._kind = kind
        self._connection = connection
        self._packet_bytes_max = min(packet_bytes_max, peer.packet_bytes_max)
        self._cut: deque[bytes] = deque()
        self._cut_index = 0

    def has_data(self, stream: Stream) -> bool:
        """Whether something waits to be let out."""
        return bool(self._cut or stream.outgoing)

    def take(self, stream: Stream, bytes_max: int) -> list[Buffer]:
        """The next packets, about `bytes_max` at most, and never more than the window lets out."""
        taken: list[Buffer] = []
        room = min(bytes_max, self.window.room_bytes)
        while room > 0 and (self._cut or stream.outgoing):
            room -= self._take_run(taken, room) if self._cut else self._take_next(stream, taken)
        return taken

    def _take_next(self, stream: Stream, taken: list[Buffer]) -> int:
        """Number the next message. One that fits a packet leaves; a longer one is cut, and leaves run by run."""
        message = stream.outgoing.popleft()
        stream.outgoing_bytes -= len(message)
        sequence = self.messages & 0xFFFFFFFF
        self.messages += 1
        made = self._engine.pack_fragments(self._kind, self._connection, sequence, message, self._packet_bytes_max)
        if len(made) > 1:
            self._cut.extend(made)
            self._cut_index = 0
            return 0
        taken += made
        nbytes = len(made[0])
        self.window.sent(sequence, 0, nbytes)
        return nbytes

    def _take_run(self, taken: list[Buffer], room: int) -> int:
        """Some packets of the message that is cut; returns their bytes."""
        cut = self._cut
        number = min(len(cut), _RUN_PACKETS, -(-room // len(cut[0])))
        run = [cut.popleft() for _ in range(number)]
        taken += run
        self._cut_index += number
        nbytes = len(run[0]) * (number - 1) + len(run[-1])
        self.window.sent(self.messages - 1 & 0xFFFFFFFF, self._cut_index - 1, nbytes)
        return nbytes
