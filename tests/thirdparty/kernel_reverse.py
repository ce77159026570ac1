"""A third party's plugin: it uses public names only."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated

import click

from kernel import Channel, Meta, Service, connect


@dataclass(frozen=True)
class ReverseOptions:
    """`--plugin reverse?suffix=!`"""

    suffix: Annotated[str, Meta(max_length=10, description="what follows each answer")] = ""


class Reverse(Service):
    """Each message comes back reversed."""

    name = "reverse"
    Options = ReverseOptions
    example = "kernel reverse {endpoint} hello"

    async def serve(self, channel: Channel) -> None:
        async for message in channel:
            channel.send(message[::-1] + self.options.suffix.encode())


@click.command()
@click.argument("endpoint")
@click.argument("text")
def reverse(endpoint: str, text: str) -> None:
    """Have TEXT reversed."""
    asyncio.run(_ask(endpoint, text))


async def _ask(endpoint: str, text: str) -> None:
    async with connect(endpoint, "reverse") as channel:
        channel.send(text.encode())
        click.echo(await channel.receive())
