"""A service in a few lines: every message is a name, and gets a greeting for an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from kernel import Channel, Meta, Service, ServiceContext


@dataclass(frozen=True)
class HelloOptions:
    """What stands behind the `?` in `--plugin hello?greeting=...`."""

    greeting: Annotated[str, Meta(description="what stands before the name")] = "Hello"


class Hello(Service):
    """Greets by name."""

    name = "hello"
    Options = HelloOptions
    example = "kernel echo --service hello --expect any {endpoint} Ada"

    def __init__(self, options: HelloOptions, context: ServiceContext) -> None:
        super().__init__(options, context)
        self._before = options.greeting.encode() + b", "

    async def serve(self, channel: Channel) -> None:
        async for name in channel:
            channel.send(self._before + name + b"!")
            await channel.drain()
