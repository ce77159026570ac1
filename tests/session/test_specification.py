"""docs/protocol.md shows a conversation byte by byte, and lists types, flags, codes; here the program says the same."""

import re
from pathlib import Path

import pytest

from kernel.errors import Code
from kernel.framing import knl
from kernel.limits import Limits
from kernel.session import base
from kernel.session.stream import StreamSession

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
LIMITS = Limits(
    frame_bytes_max=1024,
    channel_credit_bytes=4096,
    connection_credit_bytes=8192,
    channels_max=8,
    message_bytes_max=65536,
    assembly_bytes_max=131072,
)


def spoken() -> list[tuple[str, bytes]]:
    """(who, what) for each line of the conversation; a line can go on below."""
    lines: list[tuple[str, str]] = []
    for line in TEXT[TEXT.index("## A conversation") :].splitlines():
        if found := re.fullmatch(r"    (client|server) (.*)", line):
            lines.append((found[1], found[2]))
        elif line.startswith("           "):
            who, text = lines.pop()
            lines.append((who, text + line))
    return [(who, _bytes(text)) for who, text in lines]


def _bytes(text: str) -> bytes:
    text = re.sub(r"(\w\w)\*(\d+)", lambda found: found[1] * int(found[2]), text)
    return bytes.fromhex(re.sub(r"\s", "", text))


class Script:
    """Both sides, and the lines that they have still to say."""

    def __init__(self, engine_name: str) -> None:
        self.client = StreamSession(client=True, limits=LIMITS, engine_name=engine_name)
        self.server = StreamSession(client=False, limits=LIMITS, engine_name=engine_name)
        self.lines = spoken()
        self.client.started()
        self.server.started()

    def said(self, who: str) -> list[base.Event]:
        """That side says its next line, exactly; returns what the other side makes of it."""
        speaker, listener = (self.client, self.server) if who == "client" else (self.server, self.client)
        data = b"".join(bytes(buffer) for buffer in speaker.data_to_send(1 << 20))
        assert (who, data.hex(" ")) == (self.lines[0][0], self.lines[0][1].hex(" "))
        del self.lines[0]
        return listener.received(data)


def test_the_conversation(engine_name):
    script = Script(engine_name)
    client, server = script.client, script.server
    hello = script.lines[0][1]
    assert script.lines[1][1] == hello
    ready = script.said("client")
    assert [type(event) for event in ready] == [base.Ready]
    assert [type(event) for event in script.said("server")] == [base.Ready]

    ours = client.open("echo")
    (requested,) = script.said("client")
    assert isinstance(requested, base.OpenRequested)
    assert requested.stream.service == "echo"
    theirs = requested.stream
    server.accept(theirs)
    assert script.said("server") == [base.Opened(ours)]

    client.send_many(ours, [b"hello", b""])
    (messages,) = script.said("client")
    assert messages == base.Messages(theirs, [b"hello", b""], 37)
    server.consumed(theirs, 37)
    server.send_many(theirs, [b"hello", b""])
    assert script.said("server") == [base.Messages(ours, [b"hello", b""], 37)]
    client.consumed(ours, 37)

    client.send(ours, b"." * 1025)
    (messages,) = script.said("client")
    assert isinstance(messages, base.Messages)
    assert messages.messages == [b"." * 1025]

    client.ping(b"p")
    assert script.said("client") == []
    assert script.said("server") == [base.Pong(b"p")]

    client.finish(ours)
    assert script.said("client") == [base.Finished(theirs)]
    server.finish(theirs)
    assert script.said("server") == [base.Finished(ours), base.Closed(ours, Code.OK, "")]
    server.close(Code.OK, "")
    assert script.said("server") == [base.GoingAway(Code.OK, "")]
    assert script.lines == []


def test_the_codes():
    listed = dict(re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", TEXT[TEXT.index("## Codes") :], re.M))
    assert listed == {str(code.value): code.name for code in Code}


@pytest.mark.parametrize(
    ("pattern", "names"), [(r"^\| (\d+) \| ([A-Z]+) \|", "types"), (r"^\| (0x\d+) \| ([A-Z]+) \|", "flags")]
)
def test_the_numbers(pattern, names):
    section = TEXT[TEXT.index("## Frames") : TEXT.index("## HELLO")]
    listed = {name: int(number, 0) for number, name in re.findall(pattern, section, re.M)}
    assert len(listed) == {"types": 12, "flags": 5}[names]
    assert listed == {name: getattr(knl, name) for name in listed}
