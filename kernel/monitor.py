"""What a running server tells its operators, over HTTP: that it lives, whether it takes peers, and its numbers.

    GET /healthz    200 as long as the event loop turns
    GET /readyz     200 while peers are taken; 503 while it starts, and from the beginning of a drain
    GET /metrics    Prometheus' text format

The monitor is a service like any other, in a small server of its own, beside the one that it tells of: so it answers
before that one listens and while it drains, and the kernel's limits hold for whoever asks. It needs no state: what is
counted is in the server, and is written down when somebody asks. One request a connection, and only from this machine.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from kernel import __version__
from kernel.api import ChannelHandler, Service
from kernel.channel import Channel
from kernel.endpoint import Endpoint
from kernel.errors import Code, OptionError, StartError
from kernel.framing import engine_name
from kernel.limits import KIB, Limits
from kernel.registry import Registry
from kernel.server import Server
from kernel.wiring import wire

HEAD_BYTES_MAX = 4 * KIB
REQUEST_SECONDS_MAX = 10.0
_LIMITS = Limits(connections_max=16, first_byte_seconds_max=10.0, silence_seconds_max=10.0, drain_seconds_max=1.0)
_PATHS = "/healthz, /readyz and /metrics"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"
_TEXT = "text/plain; charset=utf-8"
_STATUS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


def monitor_of(server: Server, endpoint: str, registry: Registry) -> Server:
    """The server that tells of another one, not started.

    Raises:
        UsageError: the endpoint is wrong.
        StartError: it can be reached from the network.
    """
    place = Endpoint.parse(endpoint)
    if place.options.setdefault("framing", "raw") != "raw":
        raise OptionError(f"'{endpoint}': the monitor speaks HTTP, leave framing= out")
    wiring = wire(place, registry, _LIMITS, client=False, service=Monitor.name)
    if not wiring.capabilities.local_only or wiring.capabilities.preserves_messages:
        raise StartError(
            f"the monitor tells everybody who asks, so it listens on this machine only, and not on "
            f"{place.without_options()}: write tcp://127.0.0.1:PORT or unix:PATH, and let a proxy admit others"
        )
    return Server([Monitor(server)], [place], limits=_LIMITS, registry=registry)


def url(endpoint: Endpoint) -> str:
    """Where a person or a scraper asks."""
    if endpoint.scheme == "unix":
        return f"curl --unix-socket {shlex.quote(endpoint.address)} http://monitor/metrics"
    return f"{'https' if 'tls' in endpoint.layers else 'http'}://{endpoint.address}/metrics"


class Monitor(Service):
    """Answers for a server."""

    name = "monitor"

    def __init__(self, server: Server) -> None:
        self._server = server

    def handler(self) -> ChannelHandler:
        return _Request(self._server)


class _Request(ChannelHandler):
    """One connection: a request's head comes, an answer leaves, and that is all."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._head = b""
        self._deadline: asyncio.TimerHandle | None = None

    def opened(self, channel: Channel) -> None:
        # However often a byte comes: places are few, and whoever holds them all leaves the operators blind.
        reason = f"no whole request within {REQUEST_SECONDS_MAX:g} s"
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(REQUEST_SECONDS_MAX, channel.reset, Code.IDLE, reason)

    def on_message(self, channel: Channel, message: bytes) -> None:
        self._head += message
        head = self._head[:HEAD_BYTES_MAX]
        if b"\r\n\r\n" in head or b"\n\n" in head:
            channel.send(answer(head, self._server))
            channel.close()
        elif len(self._head) > HEAD_BYTES_MAX:
            channel.send(_response(431, f"a request's head has at most {HEAD_BYTES_MAX} bytes here\n"))
            channel.close()

    def on_finish(self, channel: Channel) -> None:
        channel.close()

    def on_closed(self, channel: Channel, code: Code, reason: str) -> None:
        if self._deadline is not None:
            self._deadline.cancel()


def answer(head: bytes, server: Server) -> bytes:
    """The whole response to a request."""
    try:
        method, target, version = head.split(b"\n", 1)[0].decode("ascii").split()
    except ValueError:
        method = target = version = ""
    kind = _TEXT
    if not version.startswith("HTTP/"):
        status, text = 400, "this is not a request of HTTP/1\n"
    elif method not in ("GET", "HEAD"):
        status, text = 405, "GET and HEAD are all that is answered here\n"
    else:
        status, kind, text = _tell(target.partition("?")[0], server)
    return _response(status, text, kind, bodiless=method == "HEAD")


def _response(status: int, text: str, kind: str = _TEXT, *, bodiless: bool = False) -> bytes:
    body = text.encode()
    fields = [
        f"HTTP/1.1 {status} {_STATUS[status]}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        *(["Allow: GET, HEAD"] if status == 405 else []),
        "Cache-Control: no-store",
        "Connection: close",
    ]
    return "\r\n".join([*fields, "", ""]).encode() + (b"" if bodiless else body)


def _tell(path: str, server: Server) -> tuple[int, str, str]:
    if path == "/healthz":
        return 200, _TEXT, "alive\n"
    if path == "/readyz":
        return 200 if server.state == "serving" else 503, _TEXT, f"{server.state}\n"
    if path == "/metrics":
        return 200, _METRICS, metrics(server)
    return 404, _TEXT, f"here are {_PATHS}\n"


# --- metrics -----------------------------------------------------------------------------------------------------


def metrics(server: Server) -> str:
    """All numbers of a server and of its process, as Prometheus reads them."""
    return "".join(f"{line}\n" for line in (*_of_server(server), *_of_process()))


def _of_server(server: Server) -> Iterator[str]:
    counts, channels = server.counts, server.channels
    yield from _family("kernel_info", "gauge", "The version.", {f'version="{__version__}",engine="{engine_name()}"': 1})
    yield from _family("kernel_ready", "gauge", "1 while peers are taken.", {"": int(server.state == "serving")})
    yield from _family("kernel_connections", "gauge", "Connections that are open.", {"": server.connections})
    yield from _family("kernel_connections_max", "gauge", "How many may be.", {"": server.limits.connections_max})
    yield from _family("kernel_connections_total", "counter", "Connections that got a place.", {"": counts.accepted})
    turned_away, ended, denied = map(_by_code, (counts.turned_away, counts.ended, counts.denied))
    yield from _family("kernel_connections_refused_total", "counter", "Connections that got none.", turned_away)
    yield from _family("kernel_connections_ended_total", "counter", "Connections that are over.", ended)
    now = Counter(channel.service for channel in channels)
    yield from _family("kernel_channels", "gauge", "Channels that are open.", _by_service(server.services, now))
    opened = _by_service(server.services, counts.opened)
    yield from _family("kernel_channels_total", "counter", "Channels that were opened.", opened)
    yield from _family("kernel_channels_refused_total", "counter", "Channels that were asked for in vain.", denied)
    waiting = sum(channel.buffered_bytes for channel in channels)
    yield from _family("kernel_buffered_bytes", "gauge", "What waits for peers to read it.", {"": waiting})


def _of_process() -> Iterator[str]:
    """Under the names that every exporter gives them."""
    times = os.times()
    spent = round(times.user + times.system, 2)
    yield from _family("process_cpu_seconds_total", "counter", "Processor time.", {"": spent})
    try:
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        with open("/proc/self/stat") as file:
            began_at = int(file.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        descriptors = len(os.listdir("/proc/self/fd"))
    except OSError:  # no Linux
        return
    began_at += time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    yield from _family("process_resident_memory_bytes", "gauge", "Memory in use.", {"": resident})
    yield from _family("process_open_fds", "gauge", "Descriptors that are open.", {"": descriptors})
    yield from _family("process_start_time_seconds", "gauge", "When it began, since 1970.", {"": round(began_at, 2)})


def _family(name: str, kind: str, what: str, samples: Mapping[str, float]) -> Iterator[str]:
    yield f"# HELP {name} {what}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples.items():
        yield f"{name}{{{labels}}} {value}" if labels else f"{name} {value}"


def _by_code(counter: Counter[Code]) -> dict[str, float]:
    return {f'code="{code.label}"': number for code, number in sorted(counter.items())}


def _by_service(services: Iterable[str], counter: Counter[str]) -> dict[str, float]:
    return {f'service="{name}"': counter[name] for name in services}
