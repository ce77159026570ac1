"""What stands behind the `?` in `--plugin chat?store=memory`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Literal

from kernel import KIB, MIB, Meta


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """The settings of the service; docs/chat.md explains them."""

    store: Annotated[
        str, Meta(description="the file of the history, or `memory`; empty: chat.sqlite in your state directory")
    ] = ""
    durable: Annotated[
        Literal["process", "machine"],
        Meta(description="what an acknowledged message survives: a crash of the server, or of the whole machine"),
    ] = "process"
    history: Annotated[bool, Meta(description="off: no room keeps what was said")] = True
    history_messages_max: Annotated[int, Meta(ge=1, description="messages that are kept of each room")] = 10_000
    history_seconds_max: Annotated[float, Meta(gt=0, description="how long they are kept")] = 30 * 24 * 3600.0
    backplane: Annotated[str, Meta(description="nats://HOST:PORT: one chat with every server on that NATS")] = ""
    backplane_credentials: Annotated[str, Meta(description="a file with NATS credentials, as nsc makes it")] = ""
    message_bytes_max: Annotated[int, Meta(ge=1, le=16 * KIB, description="the longest message")] = 4 * KIB
    messages_per_second: Annotated[float, Meta(gt=0, description="what one person may send; told to everybody")] = 5.0
    messages_per_second_per_source: Annotated[
        float,
        Meta(ge=0, description="what all may send who come from one address, or proved the same; 0: as one person"),
    ] = 0.0
    burst: Annotated[int, Meta(ge=1, description="how many messages may come at once")] = 20
    send_buffer_bytes_max: Annotated[
        int, Meta(ge=64 * KIB, le=16 * MIB, description="what may wait for one reader; who is beyond it is evicted")
    ] = 1 * MIB
    slow_reader_seconds_max: Annotated[
        float, Meta(gt=0, description="how long others wait for one who reads slowly, before he is evicted")
    ] = 5.0
    linger_seconds: Annotated[
        float, Meta(ge=0, description="how long somebody whose connection is lost keeps his name and his place")
    ] = 15.0
    rooms_per_person_max: Annotated[int, Meta(ge=1, description="rooms that one person may be in")] = 50
    rooms_max: Annotated[int, Meta(ge=1, description="rooms on this server, with people or a topic")] = 10_000
    dialect_room: Annotated[str, Meta(description="the room of the simple clients of `dialect=talk` and `qq`")] = (
        "lobby"
    )
    people_max: Annotated[int, Meta(ge=1, description="people on this server")] = 10_000
    people_per_source_max: Annotated[
        int, Meta(ge=1, description="of them, from one address, or who proved the same")
    ] = 1000


def default_store() -> str:
    """Where the history is kept when nobody says where."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(state, "kernel", "chat.sqlite")
