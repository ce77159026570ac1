"""What is said on a channel, beside the files' bytes: MessagePack arrays, whose first item is the kind of message.

docs/protocol-file.md is the specification. A field that is new comes last and has a default, so that an older peer can
leave it out; whoever does not know a kind says so and ends the channel.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from .errors import FileError

VERSION = 1

SMALL_BYTES_MAX = 32 * 1024
"""Files up to this size travel inside of a message."""

MESSAGE_BYTES_MAX = 256 * 1024

_INT64_MAX = (1 << 63) - 1
Count = Annotated[int, Meta(ge=0, le=_INT64_MAX)]
Nanoseconds = Annotated[int, Meta(ge=-_INT64_MAX, le=_INT64_MAX)]
Policy = Literal["refuse", "replace", "rename"]
Kind = Literal["file", "directory", "link", "other"]


class _Message(Struct, array_like=True, tag_field="message"):
    pass


class Hello(_Message, tag=0):
    """The client's first message. `sums`: blocks are to have checksums; `packed`: zstd is welcome; both ways."""

    version: int
    sums: bool = True
    packed: bool = False


class Welcome(_Message, tag=1):
    """The answer: what may be done here. `packed`: compressed blocks can be read."""

    version: int
    writable: bool
    overwrite: bool
    packed: bool = False


class Failed(_Message, tag=2):
    """A request's answer when it could not be done; the channel goes on."""

    kind: str
    text: str


class Done(_Message, tag=3):
    """A request's answer when there is nothing else to say."""


class Entry(Struct, array_like=True):
    """What lies under a name. `name` is relative to what was listed; `target` is where a link points."""

    name: bytes
    kind: Kind
    size: Count
    mtime_ns: Nanoseconds
    mode: Count
    owner: str = ""
    group: str = ""
    links: Count = 1


class List(_Message, tag=10):
    path: bytes
    recursive: bool = False


class Entries(_Message, tag=11):
    """Some of what is there; the last one says so."""

    entries: list[Entry]
    last: bool


class Stat(_Message, tag=12):
    path: bytes


class Remove(_Message, tag=13):
    path: bytes
    recursive: bool = False


class MakeDirectory(_Message, tag=14):
    path: bytes
    parents: bool = False


class Directory(Struct, array_like=True):
    path: bytes
    mode: Count
    mtime_ns: Nanoseconds


class Directories(_Message, tag=15):
    """Make those that are missing, and give each its mode and time: after what is in them has come."""

    directories: list[Directory]


class Put(_Message, tag=20):
    """Store a file. `size` -1: its end will tell. The answer is `Ready` or `Failed`."""

    path: bytes
    size: Annotated[int, Meta(ge=-1, le=_INT64_MAX)]
    mtime_ns: Nanoseconds
    mode: Count
    policy: Policy
    resume: bool = True
    parents: bool = False


class Ready(_Message, tag=21):
    """So many blocks are here already, verified, and this is their digest. `note`: why it is none, for people."""

    held: Count
    digest: bytes
    note: str = ""


class Start(_Message, tag=22):
    """Blocks follow, from this one on."""

    first: Count


class SmallFile(Struct, array_like=True, tag_field="message", tag=9):
    """The whole of a small file; `sum` as a block's."""

    path: bytes
    mtime_ns: Nanoseconds
    mode: Count
    sum: bytes
    data: bytes


class PutSmall(_Message, tag=23):
    """Store small files. The answer is `Outcomes`."""

    files: list[SmallFile]
    policy: Policy
    parents: bool = False


class Stored(_Message, tag=24):
    """It is on disk under this name, and this is the digest of what was verified."""

    path: bytes
    digest: bytes


class Outcomes(_Message, tag=25):
    """What became of each, in order: the name that it got, or why it got none."""

    outcomes: list[Stored | Failed]


class Get(_Message, tag=30):
    """Send a file from block `held` on, if it still is what `version` names; or only some `blocks` of it."""

    path: bytes
    held: Count = 0
    version: bytes = b""
    blocks: list[Count] | None = None


class Source(_Message, tag=31):
    """What is sent: blocks follow, from `first` on."""

    size: Count
    mtime_ns: Nanoseconds
    mode: Count
    version: bytes
    first: Count


class GetSmall(_Message, tag=32):
    """Send small files. Each is answered, in order, in one or more `Smalls`."""

    paths: list[bytes]


class Smalls(_Message, tag=33):
    """Some of them; one that is not small any more has `Failed`, of the kind `large`."""

    files: list[SmallFile | Failed]


class Block(_Message, tag=40):
    """The next message is this block: `nbytes` of the file, or `packed` bytes that zstd unpacks to them."""

    index: Count
    nbytes: Count
    sum: bytes
    packed: Count = 0


class Hole(_Message, tag=41):
    """So many whole blocks are zeros that take no room."""

    index: Count
    count: Count


class End(_Message, tag=42):
    """All blocks were sent; `digest` is made of the sums of those that were sent now, in the order of their sending."""

    size: Count
    digest: bytes


class Again(_Message, tag=43):
    """These blocks came damaged: send them once more, then `End`."""

    blocks: list[Count]


class Abandon(_Message, tag=44):
    """The sender stops in the middle."""

    kind: str
    text: str


Message = (
    Hello | Welcome | Failed | Done | List | Entries | Stat | Remove | MakeDirectory | Directories | Put | Ready | Start
    | PutSmall | Stored | Outcomes | Get | Source | GetSmall | Smalls | Block | Hole | End | Again | Abandon
)  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)
encode = _encoder.encode


def decode(data: bytes) -> Message:
    """Read a message.

    Raises:
        FileError: it is none that we know.
    """
    try:
        return _decoder.decode(data)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, ValueError) as error:
        raise FileError("protocol", f"the peer sent what is no message of version {VERSION}: {error}") from None
