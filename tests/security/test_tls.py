"""TLS in force: who is trusted, as whom clients are known, and what becomes of everything that is not quite TLS.

The other side is often the standard library's own TLS, so that two implementations of the shell meet.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
from security.hostile import PREFACE, Stranger, hello, serving, until
from security.services import Recorder

import kernel
from kernel import Code, DialError, Endpoint, Key, Keyring, OptionError, Server, StartError
from kernel.transports.tls_opening import Opening

ALICE = Keyring([Key("alice", bytes(32))])


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with certificates of two authorities: ours, and one that nobody knows."""
    directory = tmp_path_factory.mktemp("pki")
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    stranger.cert_pem.write_to_path(directory / "other-ca.pem")
    made = {
        "server": authority.issue_cert("127.0.0.1", "localhost"),
        "elsewhere": authority.issue_cert("elsewhere.example"),
        "alice": authority.issue_cert("alice@example.org"),
        "host": authority.issue_cert("host.example", "alice@example.org"),
        "mallory": stranger.issue_cert("alice@example.org"),
    }
    subprocess.run(
        [
            "openssl",
            "genpkey",
            "-algorithm",
            "ed25519",
            "-aes256",
            "-pass",
            "pass:x",
            "-out",
            directory / "encrypted.pem",
        ],
        check=True,
        capture_output=True,
    )
    (directory / "open.pem").touch(0o644)
    (directory / "ca.pem").chmod(0o600)
    for name, certificate in made.items():
        path = directory / f"{name}.pem"
        certificate.private_key_and_cert_chain_pem.write_to_path(path)
        path.chmod(0o600)
    return directory


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"tls+tcp://127.0.0.1:0?self_signed={tmp_path_factory.mktemp('own')}/own.pem"


async def echoes(endpoint: Endpoint | str, keys: Keyring | None = None) -> bool:
    async with kernel.connect(endpoint, "echo", keys=keys) as channel:
        channel.send(b"hello")
        return await channel.receive() == b"hello"


def with_options(endpoint: Endpoint, **options: object) -> str:
    return str(Endpoint(endpoint.scheme, endpoint.address, {k: str(v) for k, v in options.items()}, endpoint.layers))


# --- whom a client trusts --------------------------------------------------------------------------------------------


async def test_a_self_signed_server_announces_the_fingerprint_to_pin(self_signed: str):
    async with serving(recorder := Recorder(), self_signed) as server:
        [endpoint] = server.endpoints
        assert endpoint.options["fingerprint"].startswith("sha256:")
        assert await echoes(endpoint)
        assert recorder.opened_by == ["anonymous"]
    async with serving(Recorder(), self_signed) as again:
        assert again.endpoints[0].options == endpoint.options


async def test_its_file_is_private(tmp_path: Path):
    async with serving(Recorder(), f"tls+tcp://127.0.0.1:0?self_signed={tmp_path}/new/own.pem"):
        assert (tmp_path / "new" / "own.pem").stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["own.pem"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fingerprint": "sha256:" + "00" * 32}, "another fingerprint: this is not the server that was pinned"),
        ({}, "is not known to be good"),
        ({"ca": "other-ca.pem"}, "is not known to be good"),
        ({"ca": "ca.pem", "server_name": "elsewhere.example"}, "is for another name"),
    ],
)
async def test_a_server_that_is_not_known_is_refused(pki: Path, options: dict[str, str], words: str):
    options = {name: str(pki / value) if name == "ca" else value for name, value in options.items()}
    async with serving(recorder := Recorder(), f"tls+tcp://127.0.0.1:0?cert={pki}/server.pem") as server:
        with pytest.raises(DialError, match=words) as caught:
            await kernel.dial(with_options(server.endpoints[0], **options))
        assert caught.value.code is Code.UNAUTHENTICATED
        assert "\n" not in str(caught.value)
        assert recorder.opened_by == []


async def test_an_authority_vouches_for_the_name(pki: Path):
    listen = [f"tls+tcp://127.0.0.1:0?cert={pki}/{name}.pem" for name in ("server", "elsewhere")]
    async with Server([Recorder()], listen) as server:
        here, elsewhere = server.endpoints
        assert here.options == elsewhere.options == {}
        assert await echoes(with_options(here, ca=pki / "ca.pem"))
        assert await echoes(with_options(elsewhere, ca=pki / "ca.pem", server_name="elsewhere.example"))
        with pytest.raises(DialError, match="is for another name"):
            await kernel.dial(with_options(elsewhere, ca=pki / "ca.pem"))


def test_there_is_no_option_that_accepts_any_server():
    from kernel.transports.tls import TlsOptions

    assert set(TlsOptions.__dataclass_fields__) == {
        "cert", "key", "client_ca", "self_signed", "ca", "fingerprint", "server_name",
    }  # fmt: skip


# --- whom a server trusts --------------------------------------------------------------------------------------------


async def test_a_client_is_known_by_its_certificate(pki: Path):
    listen = f"tls+tcp://127.0.0.1:0?cert={pki}/server.pem&client_ca={pki}/ca.pem"
    async with serving(recorder := Recorder(), listen) as server:
        for name in ("alice", "host"):
            assert await echoes(with_options(server.endpoints[0], ca=pki / "ca.pem", cert=pki / f"{name}.pem"))
        assert recorder.opened_by == ["tls:alice@example.org", "tls:host.example"]


@pytest.mark.parametrize(
    ("certificate", "words"),
    [("", r"asks for a certificate: add \?cert=FILE"), ("mallory", "does not know the authority of our certificate")],
)
async def test_a_client_without_a_good_certificate_reaches_nothing(
    pki: Path, caplog: pytest.LogCaptureFixture, certificate: str, words: str
):
    caplog.set_level("INFO")
    listen = f"tls+tcp://127.0.0.1:0?cert={pki}/server.pem&client_ca={pki}/ca.pem"
    async with serving(recorder := Recorder(), listen) as server:
        options = {"ca": pki / "ca.pem"} | ({"cert": pki / f"{certificate}.pem"} if certificate else {})
        with pytest.raises(DialError, match=words) as caught:
            await kernel.dial(with_options(server.endpoints[0], **options))
        assert caught.value.code is Code.UNAUTHENTICATED
        await until(lambda: not server._links)
    assert recorder.opened_by == []
    [record] = [vars(record) for record in caplog.records if record.getMessage() == "a connection ended"]
    assert record["code"] == "unauthenticated"
    assert "certificate" in record["reason"]


async def test_keys_and_certificates_can_both_be_asked_for(pki: Path):
    listen = f"tls+tcp://127.0.0.1:0?cert={pki}/server.pem&client_ca={pki}/ca.pem&auth=hmac"
    async with Server([recorder := Recorder()], [listen], keys=ALICE) as server:
        [bound] = server.endpoints
        good = with_options(bound, ca=pki / "ca.pem", cert=pki / "alice.pem", auth="hmac")
        assert await echoes(good, ALICE)
        with pytest.raises(DialError, match="asks for a certificate"):
            await kernel.dial(with_options(bound, ca=pki / "ca.pem"), keys=ALICE)
        with pytest.raises(DialError, match="give the client a secret"):
            await kernel.dial(good.replace("auth=hmac", "auth=none"))
    assert recorder.opened_by == ["hmac:alice"]


async def test_a_man_in_the_middle_with_a_good_certificate_cannot_relay_the_proof(pki: Path):
    """His certificate passes the client's checks; the proof of the key is bound to the one that the server has."""
    listen = f"tls+tcp://127.0.0.1:0?cert={pki}/server.pem"
    async with Server([recorder := Recorder()], [listen], keys=ALICE) as server:
        host, port = server.endpoints[0].host_port()
        async with relay(pki, "elsewhere", host, port) as middle:
            through = f"tls+tcp://127.0.0.1:{middle}?ca={pki}/ca.pem&server_name=elsewhere.example"
            with pytest.raises(DialError, match="authentication failed") as caught:
                await kernel.dial(through, keys=ALICE)
            assert caught.value.code is Code.UNAUTHENTICATED
        async with relay(pki, "server", host, port) as middle:
            assert await echoes(f"tls+tcp://127.0.0.1:{middle}?ca={pki}/ca.pem", ALICE)
    assert recorder.opened_by == ["hmac:alice"]


@contextlib.asynccontextmanager
async def relay(pki: Path, certificate: str, host: str, port: int) -> AsyncIterator[int]:
    """TLS on both sides, everything in between passed on; gives the port."""
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(pki / f"{certificate}.pem")
    theirs = ssl.create_default_context(cafile=str(pki / "ca.pem"))

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        on_reader, on_writer = await asyncio.open_connection(host, port, ssl=theirs, server_hostname="127.0.0.1")
        await asyncio.gather(pass_on(reader, on_writer), pass_on(on_reader, writer))

    middle = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=ours)
    async with middle:
        yield middle.sockets[0].getsockname()[1]


# --- what is not quite TLS -------------------------------------------------------------------------------------------


async def test_a_client_without_tls_at_a_tls_listener(self_signed: str):
    async with serving(recorder := Recorder(), self_signed) as server:
        with pytest.raises(DialError, match="look like a TLS alert") as caught:
            await kernel.dial(f"tcp://{server.endpoints[0].address}")
        assert caught.value.code is Code.PROTOCOL
        assert recorder.opened_by == []


async def test_a_tls_client_at_a_listener_without_tls(pki: Path):
    async with serving(Recorder()) as server:
        endpoint = f"tls+tcp://{server.endpoints[0].address}?ca={pki}/ca.pem"
        with pytest.raises(DialError, match=r"does not speak TLS: leave out tls\+"):
            await kernel.dial(endpoint)


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n", PREFACE + hello(), b"\0" * 100, b"\x16\x03\x01\x40\0" + bytes(16000)]
)
async def test_garbage_reaches_no_service_on_a_raw_listener(
    self_signed: str, said: bytes, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("kernel.server.TICK_SECONDS", 0.02)
    async with serving(recorder := Recorder(), self_signed + "&framing=raw", handshake_seconds_max=0.2) as server:
        stranger = await Stranger.connect(server.endpoints[0])
        await stranger.send(said)
        assert len(await stranger.read_to_end()) < 100
        stranger.close()
        await until(lambda: not server._links)
        assert recorder.opened_by == []


async def test_who_says_nothing_is_given_up(self_signed: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("kernel.server.TICK_SECONDS", 0.02)
    for framing in ("knl", "raw"):
        async with serving(Recorder(), f"{self_signed}&framing={framing}", handshake_seconds_max=0.2) as server:
            stranger = await Stranger.connect(server.endpoints[0])
            [link] = server._links
            await stranger.read_to_end()
            assert link.code is Code.HANDSHAKE_TIMEOUT


async def test_an_endless_handshake_is_cut_off(self_signed: str):
    """A client hello that announces 19,000 bytes, in records of 1,000; then others."""
    begin = b"\x01" + (19_000).to_bytes(3, "big")
    async with serving(Recorder(), self_signed, tls_handshake_bytes_max=20_000) as server:
        stranger = await Stranger.connect(server.endpoints[0])
        [link] = server._links
        over, sent = asyncio.ensure_future(stranger.read_to_end()), 0
        while not over.done():
            await stranger.send(b"\x16\x03\x01\x03\xe8" + begin + bytes(996))
            begin = bytes(4)
            sent += 1005
            await asyncio.sleep(0)
        assert sent < 25_000
        stranger.close()
        await until(lambda: link.code is not None)
        assert link.code is Code.PROTOCOL


DECLARED = b"\x01" + (20_001).to_bytes(3, "big")


def record(body: bytes, kind: int = 22) -> bytes:
    return bytes([kind, 3, 1]) + len(body).to_bytes(2, "big") + body


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    "said",
    [
        record(DECLARED),
        record(DECLARED[:2]) + record(DECLARED[2:]),
        record(b"\x01\0\0\x02ab" + DECLARED),
        record(b"\x01\0\0\x02a") + record(b"\x01", 20) + record(b"b" + DECLARED),
    ],
    ids=["at once", "torn", "the second message", "behind a change of cipher"],
)
async def test_a_message_too_long_for_a_handshake_is_refused_from_its_header(self_signed: str, said: bytes, step: int):
    async with serving(Recorder(), self_signed, tls_handshake_bytes_max=20_000) as server:
        stranger = await Stranger.connect(server.endpoints[0])
        [link] = server._links
        for at in range(0, len(said), step):
            await stranger.send(said[at : at + step])
            await asyncio.sleep(0)
        assert len(await stranger.read_to_end()) <= 7  # an alert, if anything
        stranger.close()
        await until(lambda: link.code is not None)
        assert link.code is Code.PROTOCOL


def test_a_second_hello_that_the_server_asks_for_is_read_too(pki: Path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "server.pem")
    context.set_ecdh_curve("secp384r1")  # which no client offers first
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = trusting_anybody().wrap_bio(to_client, to_server)
    opening, large = Opening(20_000), Opening(20_000)
    for turn in range(3):
        step(client)
        said = to_server.read()
        if turn == 1:
            assert said[0] == 20
            assert said[6] == 22
            assert large.take(said[:11] + DECLARED) is None
        else:
            large.take(said)
        permitted = opening.take(said)
        assert permitted == said
        to_server.write(permitted)
        step(server)
        answer = to_client.read()
        opening.answered(answer)
        large.answered(answer)
        to_client.write(answer)
    assert server.version() == "TLSv1.3"


def step(tls: ssl.SSLObject) -> None:
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()


async def test_a_full_server_says_so_before_tls(self_signed: str):
    async with serving(Recorder(), self_signed, connections_max=1) as server:
        async with kernel.dial(server.endpoints[0]):
            with pytest.raises(DialError, match="it is full or about to end") as caught:
                await kernel.dial(server.endpoints[0])
        assert caught.value.code is Code.OVERLOADED


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
async def test_old_versions_are_refused(self_signed: str, version: ssl.TLSVersion):
    context = trusting_anybody()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    async with serving(Recorder(), self_signed) as server:
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
            await asyncio.open_connection(*server.endpoints[0].host_port(), ssl=context)


def trusting_anybody() -> ssl.SSLContext:
    """For the tests' own clients: what they meet is not in question here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def test_nobody_renegotiates(self_signed: str):
    """What lets a client make the server work for nothing, again and again; TLS 1.3 has done away with it."""
    async with serving(Recorder(), self_signed + "&framing=raw") as server:
        host, port = server.endpoints[0].host_port()
        client = await asyncio.create_subprocess_exec(
            "openssl", "s_client", "-tls1_2", "-connect", f"{host}:{port}",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert client.stdin is not None
        await until(lambda: any(link._establishing_since is None for link in server._links))
        client.stdin.write(b"R\n")
        said, _ = await asyncio.wait_for(client.communicate(), 20)
        assert b"RENEGOTIATING" in said
        assert b"no renegotiation" in said


# --- ends and volumes, with the standard library at the other side ---------------------------------------------------

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("version", VERSIONS)
async def test_megabytes_go_both_ways_and_half_close_is_seen(self_signed: str, version: ssl.TLSVersion):
    context = trusting_anybody()
    context.minimum_version = context.maximum_version = version
    data = bytes(range(256)) * 4 * 4096
    async with serving(recorder := Recorder(), self_signed + "&framing=length") as server:
        frame = len(data).to_bytes(4, "big") + data
        answer = await asyncio.to_thread(talk_in_a_thread, server.endpoints[0], context, frame)
        assert answer == frame
        await asyncio.wait_for(recorder.ended.wait(), 10)
        assert recorder.endings == [(Code.OK, "")]


def talk_in_a_thread(endpoint: Endpoint, context: ssl.SSLContext, data: bytes) -> bytes:
    """Send it all with blocking calls, read as much, and say goodbye."""
    with socket.create_connection(endpoint.host_port(), timeout=20) as plain, context.wrap_socket(plain) as sock:
        sock.sendall(data[:-1])
        sock.sendall(data[-1:])
        received = b""
        while len(received) < len(data):
            received += sock.recv(65536)
        sock.unwrap().close()
        return received


@pytest.mark.parametrize("version", VERSIONS)
async def test_our_goodbye_can_come_before_the_others_last_words(self_signed: str, version: ssl.TLSVersion):
    """The service finishes at once; what the client says afterwards still arrives."""

    class Curt(Recorder):
        def opened(self, channel):  # type: ignore[no-untyped-def]
            channel.send(b"bye")
            channel.finish()

        def on_message(self, channel, message):  # type: ignore[no-untyped-def]
            self.messages.append(message)

    context = trusting_anybody()
    context.minimum_version = context.maximum_version = version
    async with serving(curt := Curt(), self_signed + "&framing=raw") as server:

        def client() -> bytes:
            plain = socket.create_connection(server.endpoints[0].host_port(), timeout=20)
            with context.wrap_socket(plain, suppress_ragged_eofs=False) as sock:
                said = sock.recv(100) + sock.recv(100)
                sock.sendall(b"one ")
                sock.sendall(b"more")
                sock.unwrap().close()
                return said

        assert await asyncio.to_thread(client) == b"bye"
        await until(lambda: b"".join(curt.messages) == b"one more")


async def test_an_end_without_goodbye_is_a_truncation(self_signed: str):
    async with serving(recorder := Recorder(), self_signed + "&framing=raw") as server:

        def client() -> None:
            plain = socket.create_connection(server.endpoints[0].host_port(), timeout=20)
            with trusting_anybody().wrap_socket(plain) as sock:
                sock.sendall(b"hal")
                sock.recv(3)

        await asyncio.to_thread(client)
        await asyncio.wait_for(recorder.ended.wait(), 10)
        assert recorder.endings[0][0] is Code.LOST
        assert "cut off" in recorder.endings[0][1]


async def test_many_messages_over_our_own_protocol(self_signed: str):
    async with serving(Recorder(), self_signed) as server, kernel.connect(server.endpoints[0], "echo") as channel:
        sizes = [0, 1, 100, 16_383, 16_384, 16_385, 65_536, 1_000_000, 5]
        for size in sizes:
            channel.send(bytes(size))
        assert [len(await channel.receive() or b"") for _ in sizes] == sizes


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ("cert=/none.pem", StartError, "/none.pem"),
        ("cert=PKI/ca.pem", StartError, "PKI/ca.pem cannot be used"),
        ("cert=PKI/server.pem&key=PKI/alice.pem", StartError, "cannot be used: key values mismatch"),
        ("cert=PKI/server.pem&key=PKI/encrypted.pem", StartError, "the key is encrypted, decrypt it first"),
        ("cert=PKI/server.pem&key=PKI/open.pem", StartError, "can be read by everybody: chmod 600"),
        ("cert=PKI/server.pem&client_ca=/none.pem", StartError, "the authorities in /none.pem cannot be read"),
        ("cert=PKI/server.pem&ca=PKI/ca.pem", OptionError, "ca is an option of a client"),
        ("cert=PKI/server.pem&fingerprint=sha256:00", OptionError, "fingerprint is an option of a client"),
        ("self_signed=/proc/own.pem", StartError, "cannot keep a self-signed certificate in /proc/own.pem"),
    ],
)
async def test_a_listener_that_cannot_be_is_refused_in_one_line(
    pki: Path, options: str, error: type[Exception], words: str
):
    with pytest.raises(error) as caught:
        await Server([Recorder()], [f"tls+tcp://127.0.0.1:0?{options.replace('PKI', str(pki))}"]).start()
    assert words.replace("PKI", str(pki)) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ("fingerprint=sha256:00", OptionError, "a fingerprint is sha256: and 64 hexadecimal digits"),
        ("client_ca=x", OptionError, "client_ca is an option of a listener"),
        ("ca=/none.pem", DialError, "/none.pem"),
    ],
)
async def test_a_client_that_cannot_be_is_refused_in_one_line(options: str, error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        await kernel.dial(f"tls+tcp://127.0.0.1:1?{options}")


async def test_tls_over_datagrams_is_refused():
    with pytest.raises(OptionError, match="TLS needs a stream below"):
        await Server([Recorder()], ["tls+udp://127.0.0.1:0"]).start()
