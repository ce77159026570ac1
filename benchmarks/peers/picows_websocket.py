"""Echo over WebSocket with picows, a listener class in Cython, on uvloop as its authors advise."""

from __future__ import annotations

from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from benchmarks.peers import command


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_bytes())


async def main(address: str) -> None:
    def listener(_request: WSUpgradeRequest) -> WSListener:
        return Echo()

    server = await ws_create_server(
        listener, "127.0.0.1", 0, max_frame_size=command.MESSAGE_BYTES_MAX, enable_auto_ping=False, backlog=1024
    )
    command.announce_socket(address, server.sockets[0])
    await server.serve_forever()


if __name__ == "__main__":
    command.run(main, __doc__ or "")
