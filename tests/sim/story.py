"""A story: a server, a client, some channels that echo, in weather that a seed decides. It ends well, or cleanly."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from urllib.parse import urlencode

import kernel
from kernel import Channel, ChannelClosed, Client, DialError, Limits, Server, Service
from kernel.testing import LocalRegistry, VirtualLoop

# An hour of the virtual clock: whatever still runs then hangs.
STORY_SECONDS_MAX = 3600.0
LIMITS = Limits(channel_credit_bytes=64 * 1024, connection_credit_bytes=200 * 1024, frame_bytes_max=8 * 1024)


class Patient(Service):
    """An echo that is written as a coroutine."""

    name = "patient"

    async def serve(self, channel: Channel) -> None:
        async for message in channel:
            channel.send(message)
            await channel.drain()


@dataclass
class Telling:
    """What happened.

    Attributes:
        exact: channels that got back all that they sent, and their end.
        failed: why the others did not.
        lost: messages that did not come back, over datagrams.
        events: everything with its time, for comparing two tellings of one seed.
    """

    exact: int = 0
    failed: list[str] = field(default_factory=list)
    lost: int = 0
    events: list[tuple[float, str]] = field(default_factory=list)

    def note(self, event: str) -> None:
        self.events.append((round(asyncio.get_running_loop().time(), 9), event))


def stream_weather(chance: random.Random) -> dict[str, str]:
    """The options of a stream: anything between a perfect line and a very bad one."""
    packet_bytes = chance.choice([1, 20, 300, 1448, 1448, 1448])
    weather = {
        "seed": str(chance.randrange(1 << 30)),
        "delay_seconds": str(chance.choice([0, 0.001, 0.05, 0.3])),
        "jitter_seconds": str(chance.choice([0, 0, 0.1])),
        "loss": str(chance.choice([0, 0, 0.01, 0.1 if packet_bytes > 20 else 0.02])),
        "bandwidth_bytes_per_second": str(chance.choice([0, 0, 50_000, 1_000_000])),
        "buffer_bytes": str(chance.choice([100, 4000, 65536])),
        "packet_bytes": str(packet_bytes),
    }
    if chance.random() < 0.2:
        weather["cut"] = str(chance.choice([0.001, 0.01, 0.1]))
    if chance.random() < 0.2:
        weather |= {"outage_every_seconds": "5", "outage_seconds": str(chance.choice([0.5, 3, 60]))}
    return weather


def datagram_weather(chance: random.Random) -> dict[str, str]:
    """The options of a network of packets."""
    return {
        "mode": "datagram",
        "seed": str(chance.randrange(1 << 30)),
        "delay_seconds": str(chance.choice([0, 0.001, 0.05, 0.3])),
        "jitter_seconds": str(chance.choice([0, 0, 0.1])),
        "loss": str(chance.choice([0, 0.01, 0.1, 0.3])),
        "duplicate": str(chance.choice([0, 0, 0.05, 0.5])),
        "reorder": str(chance.choice([0, 0, 0.1, 0.5])),
        "bandwidth_bytes_per_second": str(chance.choice([0, 0, 50_000, 1_000_000])),
        "buffer_bytes": str(chance.choice([4000, 65536])),
    }


def is_mild(weather: dict[str, str]) -> bool:
    """Nothing in it breaks a connection."""
    hard_on_datagrams = "mode" in weather and float(weather["loss"]) > 0.1
    return not (hard_on_datagrams or weather.get("cut") or weather.get("outage_every_seconds"))


async def tell(seed: int, weather: dict[str, str], extra: str, scheme: str) -> Telling:
    """Run the story of a seed.

    Args:
        extra: more options of the endpoint: `&framing=length`.
        scheme: which transport: `sim`, or `chaos+sim`, where the weather is the layer's.
    """
    chance = random.Random(seed)
    told = Telling()
    service = chance.choice(["echo", "patient"])
    endpoint = f"{scheme}://story?{urlencode(weather)}{extra}"
    channels = 1 if extra or "mode" in weather else chance.randint(1, 4)
    talk = _talk if weather.get("mode") != "datagram" else _talk_in_datagrams
    async with (
        asyncio.timeout(STORY_SECONDS_MAX),
        Server([service], [endpoint], limits=LIMITS, registry=LocalRegistry(Patient)) as server,
    ):
        try:
            async with kernel.dial(server.endpoints[0], limits=LIMITS) as client:
                talks = [talk(client, service, random.Random(f"{seed}/{n}"), weather, told) for n in range(channels)]
                await asyncio.gather(*talks)
        except DialError as error:
            told.failed.append(f"dial: {error}")
    told.note("over")
    return told


async def _talk(client: Client, service: str, chance: random.Random, weather: dict[str, str], told: Telling) -> None:
    """One channel over a stream: what comes back is all that was sent, or the channel fails and says so."""
    sent = _messages(chance, 25 * int(weather["packet_bytes"]))
    got: list[bytes] = []
    failed = await _exchange(client, service, sent, got, chance, told)
    assert got == sent[: len(got)], "what came back is not what was sent"
    assert failed or len(got) == len(sent), f"{len(got)} of {len(sent)} messages came back, and then an orderly end"
    told.exact += not failed


async def _talk_in_datagrams(
    client: Client, service: str, chance: random.Random, weather: dict[str, str], told: Telling
) -> None:
    """One channel over datagrams: each message comes back whole and once, or not at all."""
    sent = [b"%4d" % number + message for number, message in enumerate(_messages(chance, 30_000))]
    got: list[bytes] = []
    failed = await _exchange(client, service, sent, got, chance, told)
    assert len(set(got)) == len(got), "a message came back twice"
    assert set(got) <= set(sent), "a message came back that was not sent"
    told.exact += not failed
    told.lost += len(sent) - len(got)


async def _exchange(
    client: Client, service: str, sent: list[bytes], got: list[bytes], chance: random.Random, told: Telling
) -> bool:
    """Send, and receive at one's own pace, to the end of the channel. Returns whether it failed."""
    try:
        channel = await client.open(service)
        sending = asyncio.ensure_future(_send(channel, sent, random.Random(chance.random())))
        try:
            while (message := await channel.receive()) is not None:
                got.append(message)
                told.note(f"{channel.id} got {len(message)}")
                if chance.random() < 0.1:
                    await asyncio.sleep(chance.random())
        finally:
            sending.cancel()
            await asyncio.wait([sending])
    except ChannelClosed as error:
        told.failed.append(str(error))
        told.note(f"failed: {error}")
        return True
    return False


async def _send(channel: Channel, messages: list[bytes], chance: random.Random) -> None:
    for message in messages:
        channel.send(message)
        if chance.random() < 0.3:
            await channel.drain()
        if chance.random() < 0.1:
            await asyncio.sleep(chance.random())
    channel.finish()


def _messages(chance: random.Random, budget: int) -> list[bytes]:
    messages: list[bytes] = []
    while budget > 0 and len(messages) < 30:
        size = chance.choice([0, 1, chance.randrange(50), chance.randrange(2000), chance.randrange(budget)])
        messages.append(chance.randbytes(size))
        budget -= size + 1
    return messages


def run(seed: int, weather: dict[str, str], extra: str = "", scheme: str = "sim") -> Telling:
    """Tell the story of a seed on a virtual clock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(tell(seed, weather, extra, scheme))
