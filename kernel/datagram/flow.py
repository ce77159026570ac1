"""How much a sender may have on its way. This is where congestion control has its place.

A datagram that finds the receiver's socket buffer full is lost without a word, so nobody sends more than the window
that the receiver announced beyond what its last receipt covers. A receipt names the furthest fragment that has come:
all before it has come too, or never will, and is on its way no longer. Receipts are cumulative, so a lost one costs
nothing; when none comes at all, `reset` takes everything for lost (the caller knows how long to wait).

Bytes are counted with their headers, so that empty messages are not free. A congestion controller (RFC 9002) would
lower `limit_bytes` below the receiver's window, from the same two calls: `sent` and `received`.
"""

from __future__ import annotations

from collections import deque

from kernel.datagram.packets import ahead, pack_receipt

WINDOW_BYTES_DEFAULT = 128 * 1024
"""What a Linux socket buffer of the default size holds, in packets of the default size."""


class SendWindow:
    """The sending side: bytes sent against bytes that the receiver has seen.

    Invariant: `_packets` holds (sequence, fragment index, bytes sent up to its end) of what may be on its way, in
    order.
    """

    __slots__ = ("_gone_bytes", "_packets", "_receipt", "_sent_bytes", "limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._receipt = 0
        self._sent_bytes = 0
        self._gone_bytes = 0
        self._packets: deque[tuple[int, int, int]] = deque()

    @property
    def room_bytes(self) -> int:
        """What may still be sent. A packet may leave when this is positive, and overshoot by its own length."""
        return self.limit_bytes - (self._sent_bytes - self._gone_bytes)

    def sent(self, sequence: int, index: int, nbytes: int) -> None:
        """So many bytes leave, the last of them in fragment `index` of message `sequence`."""
        self._sent_bytes += nbytes
        self._packets.append((sequence, index, self._sent_bytes))

    def received(self, receipt: int, sequence: int, index: int, limit_bytes: int) -> bool:
        """The peer has seen this fragment, and whatever it will ever see of those before it; so much may follow.

        Args:
            receipt: the receipt's own number; one that was overtaken by a later one is out of date.

        Returns:
            Whether it is news.
        """
        if ahead(receipt, self._receipt) <= 0:
            return False
        self._receipt = receipt
        self.limit_bytes = limit_bytes
        packets = self._packets
        while packets and _precedes(packets[0], sequence, index):
            self._gone_bytes = packets.popleft()[2]
        return True

    def reset(self) -> None:
        """No receipt has come for too long: all of it is lost."""
        self._gone_bytes = self._sent_bytes
        self._packets.clear()


class ReceiveWindow:
    """The receiving side: when to tell the sender what has come, and how much more may follow: each quarter of the
    window.

    The window is `bytes_max`, or the room that the service leaves when that is less.

    Attributes:
        due: it is time for a receipt.
        receipts: how many were made.
    """

    __slots__ = ("_announced_bytes", "_index", "_sequence", "_unreported_bytes", "bytes_max", "due", "receipts")

    def __init__(self, bytes_max: int, room_bytes: int) -> None:
        self.due = False
        self.receipts = 0
        self._announced_bytes = min(bytes_max, room_bytes)
        self.bytes_max = bytes_max
        self._unreported_bytes = 0
        self._sequence = 0xFFFFFFFF
        self._index = 0

    @property
    def is_narrow(self) -> bool:
        """The sender is held back: what it began to send may take its time."""
        return self._announced_bytes * 2 < self.bytes_max

    @property
    def announced_bytes(self) -> int:
        """The window that the sender was told last."""
        return self._announced_bytes

    def received(self, sequence: int, index: int, nbytes: int) -> None:
        """So many bytes came, and this was the last fragment among them."""
        distance = ahead(sequence, self._sequence)
        if distance > 0 or (distance == 0 and index > self._index):
            self._sequence, self._index = sequence, index
        self._unreported_bytes += nbytes
        if self._unreported_bytes * 4 >= self._announced_bytes:
            self.due = True

    def reopen(self, room_bytes: int) -> None:
        """The service has made room: worth a receipt when the sender was held back by it."""
        if self.is_narrow and self.bytes_max <= room_bytes * 2:
            self.due = True

    def report(self, room_bytes: int) -> bytes:
        """The payload of a receipt."""
        self.due = False
        self.receipts += 1
        self._unreported_bytes = 0
        self._announced_bytes = max(0, min(self.bytes_max, room_bytes))
        return pack_receipt(self._sequence, self._index, self._announced_bytes)


def _precedes(packet: tuple[int, int, int], sequence: int, index: int) -> bool:
    """Whether a packet that was sent is this fragment, or was sent before it."""
    distance = ahead(sequence, packet[0])
    return distance > 0 or (distance == 0 and index >= packet[1])
