"""Checks of how a connection ends: one direction or both, in order or at once, and told exactly once."""

from __future__ import annotations

import contextlib

from kernel.api import Connection
from kernel.errors import DialError
from kernel.testing.checks import check, require
from kernel.testing.end import End
from kernel.testing.transports.base import TransportBase, noise, require_same_bytes

_LARGE_BYTES = 3 * 1024 * 1024

# What one end does to end the connection; `peer.` marks what the other one does at the same time.
_ENDINGS = (
    "close",
    "abort",
    "close close",
    "abort abort",
    "close abort",
    "abort close",
    "finish_writing close",
    "finish_writing finish_writing abort",
    "close peer.close",
    "abort peer.abort",
    "abort peer.close",
)
_METHODS = ("pause_reading", "resume_reading", "finish_writing", "close", "abort")


class EndChecks(TransportBase):
    """See `TransportSuite`."""

    @check
    async def test_half_close_ends_one_direction(self) -> None:
        """After `finish_writing` the peer gets all that was written, then the end, and can still send (half-close)."""
        self.only_if(self.capabilities.half_close, "it declares no half-close")
        question, answer = noise(_LARGE_BYTES, 1), noise(_LARGE_BYTES, 2)
        async with self.listening() as place:
            for client_begins in (True, False):
                client, server = await place.connect()
                first, second = (client, server) if client_begins else (server, client)
                first.write([question])
                first.finish_writing()
                await second.until(lambda second=second: second.eof, "the end of one direction")  # type: ignore[misc]
                require_same_bytes(question, second.data)
                require(not second.lost, "the end of one direction ended the other one too")
                second.write([answer])
                second.finish_writing()
                await first.until(lambda first=first: first.eof, "the end of the other direction")  # type: ignore[misc]
                require_same_bytes(answer, first.data)
                await _close_in_order(first, second)

    @check
    async def test_finishing_without_half_close_does_no_harm(self) -> None:
        """`finish_writing` ends nothing where half-close is not declared."""
        self.only_if(not self.capabilities.half_close, "it declares half-close")
        async with self.pair() as (client, server):
            client.finish_writing()
            await self.send(server, client, [b"still", b"there"])
            await server.happens(lambda: server.lost, self.quiet_seconds)
            require(not server.lost, "finish_writing() ended the connection")

    @check
    async def test_close_sends_what_is_pending(self) -> None:
        """What was written before `close` arrives, then the end; `connection_lost(None)` on both sides."""
        self.only_if(self.capabilities.reliable, "it promises no arrival")
        sent = noise(_LARGE_BYTES)
        size = self.capabilities.message_bytes_max or _LARGE_BYTES
        async with self.pair() as (client, server):
            client.write([sent[at : at + size] for at in range(0, len(sent), size)])
            client.close()
            await server.until(lambda: server.eof or server.lost, "the end, after the peer's close()")
            require_same_bytes(sent, server.arrived)
            await _close_in_order(client, server)

    @check
    async def test_abort_ends_at_once(self) -> None:
        """After `abort` nothing more is sent: what waited is dropped, and `connection_lost` comes soon."""
        sent = noise(_LARGE_BYTES)
        async with self.pair() as (client, server):
            if self.capabilities.reliable and not self.capabilities.preserves_messages:
                server.pause_reading()
                for _ in range(10):
                    client.write([sent])
            client.abort()
            await _until_lost(client, "abort()")
            require(client.pending_bytes == 0, f"write_pending_bytes is {client.pending_bytes} after connection_lost")
            server.resume_reading()
            if self.capabilities.reliable:
                await server.until(lambda: server.eof or server.lost, "the end, after the peer's abort()")
            arrived = server.arrived
            require(arrived == (sent * 10)[: len(arrived)], "what arrived before the abort is not what was sent")
            require(len(arrived) < 10 * len(sent), "abort() sent what was pending")

    @check
    async def test_connection_lost_comes_once(self) -> None:
        """However a connection ends, each side gets `connection_lost` once, and never from inside its own call."""
        async with self.listening() as place:
            for ending in _ENDINGS:
                client, server = await place.connect()
                for step in ending.split():
                    end = server if step.startswith("peer.") else client
                    getattr(end, step.removeprefix("peer."))()
                await self._close_after(server, f"the client's {ending}")
                await _until_lost(client, ending)
            await client.happens(lambda: False, self.quiet_seconds)

    @check
    async def test_calls_after_the_end_are_ignored(self) -> None:
        """After `close`, `abort` or a loss every call is ignored: nothing is raised, nothing is sent."""
        async with self.listening() as place:
            for ending in ("close", "abort"):
                client, server = await place.connect()
                await self.send(client, server, [b"before"])
                getattr(client, ending)()
                client.write([b"after"])
                require(client.pending_bytes == 0, f"write() after {ending}() was queued")
                await self._close_after(server, f"the client's {ending}()")
                await _until_lost(client, f"{ending}()")
                for method in _METHODS:
                    getattr(client, method)()
                client.write([b"long after"])
                require(client.pending_bytes == 0, "write() after connection_lost was queued")
                require_same_bytes(b"before", server.arrived)

    @check
    async def test_writing_after_finish_writing_is_ignored(self) -> None:
        """A write after `finish_writing` is not sent (half-close)."""
        self.only_if(self.capabilities.half_close, "it declares no half-close")
        async with self.pair() as (client, server):
            client.write([b"before"])
            client.finish_writing()
            client.finish_writing()
            client.write([b"after"])
            await server.until(lambda: server.eof, "the end of one direction")
            require_same_bytes(b"before", server.arrived)

    @check
    async def test_ending_inside_a_delivery(self) -> None:
        """`close` and `abort` called from inside a delivery end the connection, and nothing more is delivered."""
        async with self.listening() as place:
            for method in ("close", "abort"):
                client, server = await place.connect()
                end_inside(server, ("filled", "data_received", "messages_received"), method)
                for number in range(20):
                    client.write([noise(1000, number)])
                await self._close_after(client, f"the server's {method}()")
                await _until_lost(server, f"{method}()")
                late = [event for event in server.events_after_reaction if event != "connection_lost"]
                require(method == "close" or not late, f"after abort() inside a delivery came {', '.join(late)}")

    @check
    async def test_ending_inside_other_calls(self) -> None:
        """`close` and `abort` may be called from inside `eof_received`, `write_drained` and `connection_lost`."""
        self.only_if(self.capabilities.half_close, "it declares no half-close")
        async with self.listening() as place:
            for method in ("close", "abort"):
                client, server = await place.connect()
                end_inside(server, ("eof_received",), method)
                end_inside(client, ("connection_lost",), method)
                client.write([noise(_LARGE_BYTES)])
                client.finish_writing()
                await self._close_after(client, f"the server's {method}()")
                await _until_lost(server, f"{method}()")
                await _until_lost(client, "close()")

                client, server = await place.connect()
                end_inside(client, ("write_drained",), method)
                client.write([noise(_LARGE_BYTES)] * 3)
                await self._close_after(server, f"the client's {method}()")
                await _until_lost(client, f"{method}()")

    @check
    async def test_a_connection_can_be_turned_away(self) -> None:
        """A connection that the acceptor aborts without starting it is gone for the client too (where it is told)."""
        self.only_if(self.capabilities.reliable and not self.capabilities.preserves_messages, "nobody would be told")
        refused: list[Connection] = []

        def refuse(connection: Connection) -> None:
            refused.append(connection)
            connection.abort()

        transport = self.make(self.new_endpoint())
        listener = await transport.listen(refuse)
        try:
            with contextlib.suppress(DialError):  # it noticed at once
                connection = await self.make(listener.dial_endpoint).dial()
                client = End(
                    connection, is_client=True, preserves_messages=False, patience_seconds=self.patience_seconds
                )
                client.start()
                await self._close_after(client, "the server had turned it away")
                require(refused, "the connection ended before accept() was called")
                await _until_lost(client, "close()")
        finally:
            await listener.close()

    async def _close_after(self, end: End, cause: str) -> None:
        """Let an end close when it sees its peer's end; where nobody tells it, at once."""
        if self.capabilities.reliable:
            await end.until(lambda: end.eof or end.lost, f"the end, after {cause}")
        end.close()


def end_inside(end: End, events: tuple[str, ...], method: str) -> None:
    """Let the end call one of its methods from inside the first of these events."""

    def react(event: str) -> None:
        if event in events:
            end.on_event = end.events_after_reaction.append
            getattr(end, method)()

    end.on_event = react


async def _close_in_order(one: End, other: End) -> None:
    one.close()
    other.close()
    for end in (one, other):
        await _until_lost(end, "close()")
        require(end.error is None, f"{end.name}'s connection ended in order, yet connection_lost got {end.error!r}")


async def _until_lost(end: End, cause: str) -> None:
    await end.until(lambda: end.lost, f"connection_lost after {cause}")
