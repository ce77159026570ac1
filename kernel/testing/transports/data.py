"""Checks of what arrives: bytes or messages, whole, in order, and slowly when the reader is slow."""

from __future__ import annotations

from kernel.testing.checks import CheckFailed, check, require
from kernel.testing.end import End
from kernel.testing.transports.base import TransportBase, noise, require_same_bytes

_KIB = 1024
_LARGE_BYTES = 5 * 1024 * _KIB
_STEP_BYTES = 256 * _KIB
# What a connection may take in while nobody reads at its other end: the buffers of both sides, not memory without end.
_HELD_BYTES_MAX = 64 * 1024 * _KIB
# Few enough for a datagram socket's buffer.
_BURST_MESSAGES = 20


class DataChecks(TransportBase):
    """See `TransportSuite`."""

    @check
    async def test_tiny_writes_arrive(self) -> None:
        """Writes of single bytes arrive, all of them and in order, in both directions."""
        async with self.pair() as (client, server):
            letters = [bytes([number % 256]) for number in range(300)]
            await self.send(client, server, letters)
            await self.send(server, client, letters)

    @check
    async def test_large_writes_arrive(self) -> None:
        """Some MiB in one write arrive whole while as much goes the other way (a stream)."""
        self.only_if(not self.capabilities.preserves_messages, "it carries messages")
        there, back = noise(_LARGE_BYTES, 1), noise(_LARGE_BYTES, 2)
        async with self.pair() as (client, server):
            client.write([there])
            server.write([back])
            await server.until(lambda: len(server.data) >= len(there), f"{len(there)} bytes to arrive")
            await client.until(lambda: len(client.data) >= len(back), f"{len(back)} bytes to arrive")
            require_same_bytes(there, server.data)
            require_same_bytes(back, client.data)

    @check
    async def test_many_buffers_in_one_write_arrive(self) -> None:
        """Writes of thousands of buffers of all sizes, of empty ones and of none arrive in order (a stream)."""
        self.only_if(not self.capabilities.preserves_messages, "it carries messages")
        buffers = [noise(number % 300, number) for number in range(3000)]
        async with self.pair() as (client, server):
            client.write([])
            await self.send(client, server, buffers)
            await self.send(server, client, [b"", *buffers[:10]])

    @check
    async def test_every_kind_of_buffer_can_be_written(self) -> None:
        """`bytes`, `bytearray` and `memoryview`, also a part of a larger one."""
        whole = noise(1000)
        async with self.pair() as (client, server):
            await self.send(client, server, [whole, bytearray(whole), memoryview(whole), memoryview(whole)[100:200]])

    @check
    async def test_bytes_go_where_the_receiver_wants_them(self) -> None:
        """A receiver that lends its own buffer gets the stream's bytes in order, wherever they are put (a stream)."""
        self.only_if(not self.capabilities.preserves_messages, "it carries messages")
        sent = noise(300 * _KIB)
        async with self.pair() as (client, server):
            server.view_bytes = 7000
            await self.send(client, server, [sent[:100]])
            await self.send(client, server, [sent])
            server.view_bytes = 0
            await self.send(client, server, [sent])

    @check
    async def test_messages_keep_their_boundaries(self) -> None:
        """Each write arrives as one message, also the empty one and the largest that is declared (messages)."""
        capabilities = self.capabilities
        self.only_if(capabilities.preserves_messages, "it carries a stream of bytes")
        largest = capabilities.message_bytes_max or 1024 * _KIB
        sizes = [0, 1, 2, 100, largest, 0, largest - 1, 3]
        async with self.pair() as (client, server):
            for sender, receiver in ((client, server), (server, client)):
                await self.send(sender, receiver, [noise(size, size) for size in sizes])

    @check
    async def test_a_write_of_many_messages_is_many_messages(self) -> None:
        """Each buffer of one write is a message of its own (messages)."""
        self.only_if(self.capabilities.preserves_messages, "it carries a stream of bytes")
        messages = [b"%d" % number * (1 + number % 7) for number in range(_BURST_MESSAGES)]
        async with self.pair() as (client, server):
            client.write(messages)
            await server.until(lambda: len(server.messages) >= len(messages), f"{len(messages)} messages to arrive")
            require(sorted(server.messages) == sorted(messages), "messages were joined, cut or changed")

    @check
    async def test_order_and_reliability_are_as_declared(self) -> None:
        """Thousands of numbered writes without a pause arrive in their order (where that is declared)."""
        capabilities = self.capabilities
        self.only_if(capabilities.reliable and capabilities.ordered, "it promises neither")
        sent = [b"%06d" % number for number in range(5000)]
        async with self.pair() as (client, server):
            for payload in sent:
                client.write([payload])
            await server.until(lambda: len(server.arrived) >= 6 * len(sent), f"{len(sent)} writes to arrive")
            require_same_bytes(b"".join(sent), server.arrived)

    @check
    async def test_pause_reading_holds_the_peer(self) -> None:
        """Nothing is delivered after `pause_reading`, the peer's writes come to a stop, and nothing of it is lost."""
        self.only_if(self.capabilities.reliable, "it drops what nobody reads")
        async with self.pair() as (client, server):
            server.pause_reading()
            server.pause_reading()
            sent = await self._fill(client)
            require(not server.arrived, "data was delivered after pause_reading()")
            server.resume_reading()
            server.resume_reading()
            await server.until(lambda: len(server.arrived) >= len(sent), "what was held back, after resume_reading()")
            require_same_bytes(sent, server.arrived)

    @check
    async def test_pausing_inside_a_delivery_holds_at_once(self) -> None:
        """`pause_reading` called from inside a delivery lets no further one through."""
        async with self.pair() as (client, server):
            deliveries: list[str] = []

            def pause(event: str) -> None:
                deliveries.append(event)
                server.pause_reading()

            server.on_event = pause
            for number in range(_BURST_MESSAGES):
                client.write([noise(1000, number)])
            await server.until(lambda: deliveries, "the first delivery")
            await server.happens(lambda: len(deliveries) > 1, self.quiet_seconds)
            require(len(deliveries) == 1, f"after pause_reading() came {', '.join(deliveries[1:])}")
            server.on_event = lambda event: None
            server.resume_reading()
            await server.until(lambda: len(server.arrived) == 1000 * _BURST_MESSAGES, "the rest, after resuming")

    @check
    async def test_pending_bytes_are_told_honestly(self) -> None:
        """`write_pending_bytes` grows by what is written while the peer does not read, and ends at 0."""
        self.only_if(self.capabilities.reliable, "it drops what nobody reads")
        async with self.pair() as (client, server):
            require(client.pending_bytes == 0, f"write_pending_bytes is {client.pending_bytes} before the first write")
            server.pause_reading()
            sent = await self._fill(client)
            before = client.pending_bytes
            client.write([noise(_STEP_BYTES)])
            grown = client.pending_bytes - before
            require(
                _STEP_BYTES <= grown <= 1.25 * _STEP_BYTES,
                f"{_STEP_BYTES} more bytes for a peer that does not read changed write_pending_bytes by {grown}",
            )
            server.resume_reading()
            await client.until(lambda: client.pending_bytes == 0, "write_pending_bytes to return to 0")
            total = len(sent) + _STEP_BYTES
            await server.until(lambda: len(server.arrived) == total, f"all {total} bytes to arrive")

    @check
    async def test_write_drained_is_called(self) -> None:
        """`write_drained` comes when pending bytes have all left: once each time, and not before."""
        self.only_if(self.capabilities.reliable, "it drops what nobody reads")
        async with self.pair() as (client, server):
            for _ in range(2):
                server.pause_reading()
                await self._fill(client)
                client.drained = 0
                server.resume_reading()
                await client.until(lambda: client.drained, "write_drained, when all that was pending had left")
            await server.happens(lambda: client.drained > 1, self.quiet_seconds)
            require(client.drained == 1, f"write_drained was called {client.drained} times for one wait")

    async def _fill(self, sender: End) -> bytes:
        """Write until nothing leaves any more; returns what was written since the beginning."""
        sent = bytearray()
        while len(sent) < _HELD_BYTES_MAX:
            step = noise(_STEP_BYTES, len(sent))
            sender.write(_cut(step, self.capabilities.message_bytes_max))
            sent += step
            if not await sender.happens(lambda: sender.pending_bytes == 0, self.quiet_seconds):
                return bytes(sent)
        raise CheckFailed(f"the peer does not read, and still {len(sent)} bytes were taken without a sign of it")


def _cut(data: bytes, size: int | None) -> list[bytes]:
    size = size or len(data)
    return [data[at : at + size] for at in range(0, len(data), size)]
