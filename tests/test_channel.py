"""What a client's program holds of a conversation."""

from __future__ import annotations

import asyncio

from kernel import Server, connect


async def test_a_channel_stays_open_when_reading_is_paused_and_resumed():
    async with Server(["echo"], ["tcp://127.0.0.1:0"]) as server, connect(server.endpoints[0], "echo") as channel:
        channel.pause_reading()
        channel.resume_reading()
        await asyncio.wait_for(channel.wait_opened(), 30)
        channel.send(b"hello")
        assert await channel.receive() == b"hello"
