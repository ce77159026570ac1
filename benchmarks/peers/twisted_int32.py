"""Length-framed echo on Twisted's Int32StringReceiver and its epoll reactor."""

from __future__ import annotations

from twisted.internet import epollreactor

epollreactor.install()

from twisted.internet import reactor  # noqa: E402
from twisted.internet.protocol import Factory  # noqa: E402
from twisted.protocols.basic import Int32StringReceiver  # noqa: E402

from benchmarks.peers import command  # noqa: E402


class Echo(Int32StringReceiver):
    MAX_LENGTH = command.MESSAGE_BYTES_MAX

    def connectionMade(self) -> None:  # noqa: N802
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)

    def stringReceived(self, string: bytes) -> None:  # noqa: N802
        self.sendString(string)


def main() -> None:
    address = command.arguments(__doc__ or "").address
    factory = Factory.forProtocol(Echo)
    if address.startswith("unix:"):
        reactor.listenUNIX(address[5:], factory, backlog=1024)
        command.announce(address)
    else:
        port = reactor.listenTCP(0, factory, backlog=1024, interface="127.0.0.1")
        command.announce(address, port.getHost().port)
    reactor.run()


if __name__ == "__main__":
    main()
