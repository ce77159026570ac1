"""Servers that lie: the client ends with one clear line, and has written nothing outside of its target.

The server is a real one of ours whose service is played by hand; the client is the command, as people run it.
"""

from __future__ import annotations

import itertools
import os
import resource
import subprocess
from pathlib import Path

import msgspec
import pytest
from file.conftest import KERNEL, Run
from file.hosts import Hosting, Play, hosting as hosting

from kernel.plugins.file import client as client_module, sync, transfer
from kernel.plugins.file.messages import (
    Again,
    Block,
    Done,
    End,
    Entries,
    Entry,
    Failed,
    Get,
    GetSmall,
    Hole,
    List,
    Message,
    Outcomes,
    Put,
    PutSmall,
    Ready,
    SmallFile,
    Smalls,
    Source,
    Start,
    Stat,
    Stored,
)
from kernel.plugins.file.sums import BLOCK_BYTES, block_sum, digest, zeros_sum
from kernel.plugins.file.wire import Wire

BLOCK = os.urandom(BLOCK_BYTES)
SUM = block_sum([BLOCK])
BIG = 3 * BLOCK_BYTES
HUGE = 1 << 62


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the client works: a directory in one that nothing of the server's may come into."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def entry(name: bytes, kind: str = "file", size: int = 1, **more: object) -> Entry:
    return msgspec.structs.replace(Entry(name, kind, size, 0, 0o644), **more)  # type: ignore[arg-type]


def small(path: bytes) -> SmallFile:
    return SmallFile(path, 0, 0o644, block_sum([b"x"]), b"x")


def in_turn(*answers: Message | bytes | list[Message | bytes]) -> Play:
    """To the first request the first answer, and so on; the last one again and again."""
    rest = itertools.chain(answers, itertools.repeat(answers[-1]))

    async def play(wire: Wire, _request: Message) -> None:
        answer = next(rest)
        for message in answer if isinstance(answer, list) else [answer]:
            if isinstance(message, bytes):
                wire.channel.send(message)
            else:
                wire.send(message)

    return play


def one_line(result: tuple[int, str, str], *words: str) -> None:
    code, out, err = result
    assert code == 1, err
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("kernel: error:")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert err.replace("\n", "").isprintable()
    assert all(word in lines[0] for word in words), lines


# --- looking -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entries", [[], [entry(b"a"), entry(b"b")]], ids=["none", "two"])
def test_one_entry_is_one(kernel: Run, hosting: Hosting, entries: list[Entry]):
    one_line(kernel("file", "stat", hosting(in_turn(Entries(entries, last=True))), "x"), "entries, where one")


@pytest.mark.parametrize("flags", [[], ["-1"], ["--json"]])
def test_what_a_server_says_plays_no_tricks_with_a_terminal(kernel: Run, hosting: Hosting, flags: list[str]):
    evil = "\x1b[2J\x9b\u202e\n"
    listed = entry(evil.encode(), owner=evil, group=evil, mode=(1 << 63) - 1, size=(1 << 63) - 1, links=(1 << 63) - 1)
    endpoint = hosting(in_turn(Entries([listed], last=True)))
    code, out, err = kernel("file", "ls", endpoint, *flags)
    assert (code, err) == (0, "")
    assert out.rstrip("\n").isprintable()
    assert kernel("file", "stat", endpoint, "x")[1].replace("\n", "").isprintable()
    for answer in (Failed("io", evil), Failed(evil, evil)):
        one_line(kernel("file", "ls", hosting(in_turn(answer))), "\\x1b[2J")
        one_line(kernel("file", "rm", hosting(in_turn(answer)), "x"), "\\x1b[2J")


def test_a_failure_of_an_unknown_kind_is_a_failure(kernel: Run, hosting: Hosting):
    """`skipped` is a kind of ours, by which nothing has failed."""
    one_line(
        kernel(
            "file",
            "get",
            hosting(
                in_turn(Failed("skipped", "nothing wrong")),
            ),
            "x",
        ),
        "nothing wrong",
    )


async def without_end(wire: Wire, request: Message) -> None:
    """A directory of directories, of files, of links: whatever is asked for."""
    if isinstance(request, Stat):
        wire.send(Entries([entry(b"", "directory")], last=True))
    elif isinstance(request, List):
        for number in itertools.count():
            names = [b"%d-%d" % (number, at) for at in range(250)]
            wire.send(
                Entries([entry(name, ("directory", "link")[at % 2]) for at, name in enumerate(names)], last=False)
            )
            await wire.channel.drain()
    else:
        wire.send(Done())


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["get", "E", "-r", "x"], "more than 20,000 directories"),
        (["sync", "E", "--pull", "x", "y"], "more than 20,000 entries"),
    ],
)
def test_a_listing_without_end_ends(
    kernel: Run, hosting: Hosting, command: list[str], words: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(transfer, "DIRECTORIES_MAX", 20_000)
    monkeypatch.setattr(sync, "ENTRIES_MAX", 20_000)
    endpoint = hosting(without_end)
    code, out, err = kernel("file", *(endpoint if word == "E" else word for word in command))
    assert (code, out) == (1, "")
    assert words in err.splitlines()[-1]
    assert len(err.splitlines()) < 10_010  # what was skipped is told, up to a limit
    assert "Traceback" not in err


def test_a_listing_without_end_takes_no_memory(hosting: Hosting, environ: dict[str, str]):
    """`ls | head`: printed as it comes, until nobody reads any more."""
    command = [KERNEL, "file", "ls", hosting(without_end)]
    lister = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert lister.stdout is not None
    assert lister.stderr is not None
    for _ in range(20_000):
        lister.stdout.readline()
    early = memory_kib(lister.pid)
    for _ in range(200_000):
        lister.stdout.readline()
    grown = memory_kib(lister.pid) - early
    lister.stdout.close()
    assert lister.wait(60) in (0, 1, 141)
    assert b"Traceback" not in lister.stderr.read()
    lister.stderr.close()
    assert grown < 16 * 1024, f"{grown} KiB more"


def memory_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def test_a_listing_of_nothing_without_end_is_refused(kernel: Run, hosting: Hosting):
    one_line(
        kernel("file", "ls", hosting(in_turn(Entries([], last=False)))), "no entries, and says that there are more"
    )


# --- names ---------------------------------------------------------------------------------------------------------

NAMES = [
    b"..", b"../escaped", b"a/../../escaped", b"/../escaped", b"a\0b", b"\0", b"", b"/", b".", b"x" * 300, b"a/" * 300,
    b"link/escaped", b".kernel-file/escaped",
]  # fmt: skip


@pytest.mark.parametrize("size", [1, BIG], ids=["small", "large"])
def test_names_lead_nowhere(kernel: Run, hosting: Hosting, here: Path, tmp_path: Path, size: int):
    """Each of them in a listing whose other entry is good; a link that is here already is not followed, either."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in NAMES:
        listing = [entry(b"", "directory"), entry(name, size=size)]

        async def play(wire: Wire, request: Message, listing: list[Entry] = listing) -> None:
            if isinstance(request, Stat):
                wire.send(Entries(listing[:1], last=True))
            elif isinstance(request, List):
                wire.send(Entries(listing[1:], last=True))
            elif isinstance(request, GetSmall):
                wire.send(Smalls([small(path) for path in request.paths]))
            elif isinstance(request, Get):
                wire.send(Source(size, 0, 0o644, bytes(16), 0))
                for index in range(3):
                    wire.send(Block(index, BLOCK_BYTES, SUM))
                    wire.channel.send(BLOCK)
                wire.send(End(size, digest(SUM * 3, size)))

        target = here / "target"
        target.mkdir()
        (target / "link").symlink_to(outside)
        code, _, err = kernel("file", "get", hosting(play), "-r", "x", "--to", ".")
        assert code == (0 if name == b"link/escaped" else 1), name  # there is no such link in x
        code, _, err = kernel("file", "get", hosting(play), "-r", "x", "target/")
        assert "Traceback" not in err, name
        code, _, err = kernel("file", "sync", hosting(play), "--pull", "x", "target")
        assert "Traceback" not in err, name
        assert sorted(os.listdir(tmp_path)) == ["here", "outside"], name
        assert os.listdir(outside) == [], name
        subprocess.run(["rm", "-r", target, here / "x"], capture_output=True)


async def one_name_that_cannot_be(wire: Wire, request: Message) -> None:
    """A directory of three files, of which the one in the middle has an impossible name."""
    if isinstance(request, Stat):
        wire.send(Entries([entry(b"", "directory")], last=True))
    elif isinstance(request, List):
        wire.send(Entries([entry(b"before"), entry(b"../between"), entry(b"behind")], last=True))
    elif isinstance(request, GetSmall):
        wire.send(Smalls([small(path) for path in request.paths]))


def test_a_name_that_cannot_be_takes_no_other_with_it(kernel: Run, hosting: Hosting, here: Path):
    one_line(kernel("file", "get", hosting(one_name_that_cannot_be), "-r", "x", "target"), "between", "leads out")
    assert sorted(os.listdir(here / "target")) == ["before", "behind"]


# --- fetching ------------------------------------------------------------------------------------------------------

ONE = Entries([entry(b"x", size=1)], last=True)
LARGE = Entries([entry(b"x", size=BIG)], last=True)


@pytest.mark.parametrize(
    ("smalls", "words"),
    [
        ([small(b"x"), small(b"x")], "2 small files, where 1 were missing"),
        ([small(b"x")] * 500, "500 small files"),
        ([], "0 small files"),
        ([small(b"other")], "other, where x was asked for"),
        ([SmallFile(b"x", 0, 0o644, block_sum([b"y"]), b"x")], "came damaged"),
        ([Failed("missing", "gone\x07")], "gone"),
    ],
    ids=["two", "many", "none", "another", "damaged", "failed"],
)
def test_small_files_are_those_that_were_asked_for(
    kernel: Run, hosting: Hosting, here: Path, smalls: list[SmallFile | Failed], words: str
):
    one_line(kernel("file", "get", hosting(in_turn(ONE, Smalls(smalls))), "x"), words)
    assert os.listdir(here) == []


def blocks(*indices: int, size: int = BIG, first: int = 0, end: Message | None = None) -> list[Message | bytes]:
    """A whole answer to `Get`."""
    answer: list[Message | bytes] = [Source(size, 0, 0o644, b"v" * 16, first)]
    for index in indices:
        answer += [Block(index, BLOCK_BYTES, SUM), BLOCK]
    return [*answer, end or End(size, digest(SUM * len(indices), size))]


LIES = {
    "begins where nothing is held": (blocks(1, 2, first=1), "begins at block 1, where 0 are held"),
    "a digest of something else": (blocks(0, 1, 2, end=End(BIG, b"x" * 16)), "digest"),
    "no digest": (blocks(0, 1, 2, end=End(BIG, b"")), "checksum"),
    "another size at the end": (blocks(0, 1, 2, end=End(BIG - 1, digest(SUM * 3, BIG - 1))), "bytes were sent"),
    "too few": (blocks(0, 1), "ends after 2 blocks of 3"),
    "too many": (blocks(0, 1, 2, 3), "does not fit the file"),
    "out of order": (blocks(0, 2), "block 2 came where block 1 was due"),
    "a size without end": (blocks(size=HUGE), f"{HUGE} bytes, the most is"),
    "a hole without end": ([Source(HUGE, 0, 0o644, bytes(16), 0), Hole(0, HUGE // BLOCK_BYTES)], "the most is"),
    "a hole beyond the end": ([Source(BIG, 0, 0o644, bytes(16), 0), Hole(0, 4)], "does not fit the file"),
    "compressed without leave": (
        [Source(BIG, 0, 0o644, bytes(16), 0), Block(0, BLOCK_BYTES, SUM, packed=5), b"12345"],
        "nobody asked for compression",
    ),
    "a failure in the middle": ([*blocks(0)[:-1], Failed("io", "the disk failed")], "the disk failed"),
    "something else": (Done(), "Done where it makes no sense"),
    "no message": (b"\xc1", "no message of version"),
    "a message without end": (bytes(1 << 20), "the limit is"),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("to", ["a file", "standard output"])
def test_a_file_is_what_was_announced_or_nothing(kernel: Run, hosting: Hosting, here: Path, lie: str, to: str):
    answer, words = LIES[lie]
    if to == "standard output":
        code, _, err = kernel("file", "get", hosting(in_turn(answer)), "x", "-")
        assert code == 1
        assert err.count("\n") == 1
        assert "Traceback" not in err
        return
    one_line(kernel("file", "get", hosting(in_turn(LARGE, answer)), "x"), words)
    assert not (here / "x").exists()


def test_a_large_hole_takes_memory_for_its_sums_alone(hosting: Hosting, environ: dict[str, str], tmp_path: Path):
    """The largest file that is fetched, of nothing but holes, and with the wrong digest: 16 bytes for each MiB."""
    size = client_module.FILE_BYTES_MAX
    play = in_turn(
        Entries([entry(b"x", size=size)], last=True),
        [Source(size, 0, 0o644, b"v" * 16, 0), Hole(0, size // BLOCK_BYTES), End(size, b"x" * 16)],
    )
    command = [KERNEL, "file", "get", hosting(play), "x"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, preexec_fn=at_most_a_gigabyte)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert not (tmp_path / "here" / "x").exists()


def at_most_a_gigabyte() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))


@pytest.mark.parametrize("again", ["always damaged", "other blocks", "another size"])
def test_blocks_that_never_come_right_end(kernel: Run, hosting: Hosting, here: Path, again: str):
    bad: list[Message | bytes] = blocks(0, 1, 2)
    bad[4] = bytes(BLOCK_BYTES)
    repeated: list[Message | bytes] = [bad[0], bad[3], bad[4], End(BIG, digest(SUM, BIG))]
    if again == "other blocks":
        repeated[1] = Block(0, BLOCK_BYTES, SUM)
        repeated[2] = BLOCK
    if again == "another size":
        repeated[0] = Source(BIG + 1, 0, 0o644, b"v" * 16, 0)
    one_line(kernel("file", "get", hosting(in_turn(LARGE, bad, repeated)), "x"))
    assert not (here / "x").exists()


# --- storing -------------------------------------------------------------------------------------------------------


def storing(*, ready: Ready, answers: list[Message], again: bool = True) -> Play:
    """Takes an upload, and says these things behind it, each when the client has said `End`."""
    rest = iter(answers)

    async def play(wire: Wire, request: Message) -> None:
        if isinstance(request, Put):
            wire.send(ready)
        elif isinstance(request, Stat):
            wire.send(Failed("missing", "there is nothing"))
        elif isinstance(request, Block):
            await wire.block(request.nbytes)
        elif isinstance(request, End):
            wire.send(next(rest))
        elif isinstance(request, PutSmall):
            wire.send(answers[0])
        else:
            assert isinstance(request, Start), request

    return play


@pytest.mark.parametrize(
    ("ready", "answers", "words"),
    [
        (Ready(0, b""), [Stored(b"x", b"y" * 16)], "what the server has stored is not what was sent"),
        (Ready(0, b""), [Stored(b"x", b"")], "what the server has stored is not what was sent"),
        (Ready(HUGE, b"x" * 16), [], "holds 4611686018427387904 blocks"),
        (Ready(4, digest(SUM * 3, 4 * BLOCK_BYTES)), [], "holds 4 blocks of a file of 3"),
        (Ready(3, digest(SUM * 3, BIG)), [Stored(b"x", b"y" * 16)], "what the server has stored is not what"),
        (Ready(0, b""), [Again([3])], "blocks came damaged which were not sent"),
        (Ready(0, b""), [Again([HUGE])], "blocks came damaged which were not sent"),
        (Ready(0, b""), [Again([0])] * 9, "came damaged, again and again"),
        (Ready(0, b""), [Failed("io", "\x1b[2J")], "\\x1b[2J"),
        (Ready(0, b""), [Done()], "Done where it makes no sense"),
    ],
)
def test_what_a_server_says_of_an_upload_is_checked(
    kernel: Run, hosting: Hosting, here: Path, ready: Ready, answers: list[Message], words: str
):
    (here / "x").write_bytes(BLOCK * 3)
    one_line(kernel("file", "put", hosting(storing(ready=ready, answers=answers)), "x"), words)
    assert (here / "x").read_bytes() == BLOCK * 3


def test_a_resume_offer_that_lies_starts_over(kernel: Run, hosting: Hosting, here: Path):
    (here / "x").write_bytes(BLOCK * 3)
    play = storing(ready=Ready(2, b"y" * 16), answers=[Stored(b"x", digest(SUM * 3, BIG))])
    code, _, err = kernel("file", "put", hosting(play), "x")
    assert code == 0
    assert "starting over" in err
    play = storing(ready=Ready(0, b"", "\x1b[2J"), answers=[Stored(b"\x1b[2J", digest(SUM * 3, BIG))])
    code, _, err = kernel("file", "put", hosting(play), "x")
    assert code == 0
    assert err.replace("\n", "").isprintable()


@pytest.mark.parametrize("count", [0, 2])
def test_each_small_file_has_one_outcome(kernel: Run, hosting: Hosting, here: Path, count: int):
    (here / "x").write_bytes(b"x")
    answer = Outcomes([Stored(b"x", b"")] * count)
    one_line(kernel("file", "put", hosting(storing(ready=Ready(0, b""), answers=[answer])), "x"), f"{count} outcomes")


def test_zeros_have_the_sums_that_they_have():
    from kernel.plugins.file.sums import zeros_sums

    for index, count, size in (
        (0, 1, 5),
        (0, 3, BIG),
        (7, 9000, 9006 * BLOCK_BYTES + 3),
        (0, 4097, 4097 * BLOCK_BYTES),
    ):
        nbytes = [min(BLOCK_BYTES, size - at * BLOCK_BYTES) for at in range(index, index + count)]
        assert b"".join(zeros_sums(index, count, size)) == b"".join(map(zeros_sum, nbytes))
