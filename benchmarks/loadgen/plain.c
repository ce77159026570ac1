/*
 * Protocols whose stream of messages repeats byte for byte, once the handshake is over: sending walks through the
 * pattern, receiving compares with the other one. Besides bare bytes and length prefixes these are ZeroMQ's ZMTP 3.0 (a
 * DEALER), nanomsg's SP (a REQ) and RFC 6455's WebSocket (masked with zeros, as a mask may be).
 */
#define _GNU_SOURCE
#include "loadgen.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static void plain_fill(struct run *run, struct connection *c) {
    struct channel *channel = &c->channels[0];
    size_t room = channel_room(run, channel), first = (size_t)(channel->sent % run->send.messages);
    while (room > 0 && queue_has_room(c, 0)) {
        size_t count = run->send.messages - first;
        if (count > room) count = room;
        queue_reference(c, run->send.bytes + first * run->send.message_bytes, count * run->send.message_bytes);
        channel_sending(run, channel, count);
        room -= count;
        first = 0;
    }
}

static void plain_received(struct run *run, struct connection *c, const uint8_t *data, size_t size) {
    channel_received(run, &c->channels[0], data, size);
}

static size_t length_header(uint8_t *out, uint32_t payload_bytes) {
    put_be32(out, payload_bytes);
    return 4;
}

/* ---- ZMTP 3.0, NULL mechanism (RFC 23) ---- */

static void zmtp_handshake(struct run *run, struct connection *c) {
    (void)run;
    static const uint8_t ready[] = "\x04\x29\x05READY\x0bSocket-Type\x00\x00\x00\x06"
                                   "DEALER\x08Identity\x00\x00\x00";
    uint8_t greeting[64] = {0xff, [9] = 0x7f, [10] = 3, [12] = 'N', 'U', 'L', 'L'}, answer[256];
    must_send(c->fd, greeting, sizeof greeting);
    must_receive(c->fd, greeting, sizeof greeting);
    must_send(c->fd, ready, sizeof ready); /* the literal's closing zero is the last byte of the empty identity's length */
    must_receive(c->fd, answer, 2);
    if (answer[0] != 4) die("the server speaks no ZMTP 3.0 with the NULL mechanism");
    must_receive(c->fd, answer + 2, answer[1]);
}

static size_t zmtp_header(uint8_t *out, uint32_t payload_bytes) {
    bool is_long = payload_bytes > 255;
    out[0] = is_long ? 2 : 0;
    if (is_long)
        put_be64(out + 1, payload_bytes);
    else
        out[1] = (uint8_t)payload_bytes;
    return is_long ? 9 : 2;
}

/* ---- SP over TCP and IPC: REQ ---- */

static void sp_handshake(struct run *run, struct connection *c) {
    (void)run;
    uint8_t hello[8] = {0, 'S', 'P', 0, 0, 0x30, 0, 0};
    must_send(c->fd, hello, sizeof hello);
    must_receive(c->fd, hello, sizeof hello);
    if (memcmp(hello, "\0SP\0\0\x31", 6) != 0) die("the server is no SP REP socket");
}

static size_t sp_header(uint8_t *out, uint32_t payload_bytes) {
    put_be64(out, (uint64_t)payload_bytes + 4);
    put_be32(out + 8, 0x80000001); /* the request's number; the answer carries it back */
    return 12;
}

static size_t sp_ipc_header(uint8_t *out, uint32_t payload_bytes) {
    out[0] = 1;
    return 1 + sp_header(out + 1, payload_bytes);
}

/* ---- WebSocket ---- */

static void websocket_handshake(struct run *run, struct connection *c) {
    (void)run;
    static const char request[] = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                  "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    char answer[1024];
    size_t used = 0;
    must_send(c->fd, request, sizeof request - 1);
    do {
        if (used == sizeof answer) die("the server's HTTP answer is too long");
        must_receive(c->fd, answer + used++, 1);
    } while (used < 4 || memcmp(answer + used - 4, "\r\n\r\n", 4) != 0);
    if (memcmp(answer, "HTTP/1.1 101", 12) != 0) die("the server refused the WebSocket: %.40s", answer);
}

static size_t websocket_header(uint8_t *out, uint32_t payload_bytes, uint8_t mask_bit) {
    out[0] = 0x82;
    if (payload_bytes < 126) {
        out[1] = (uint8_t)(mask_bit | payload_bytes);
        return 2;
    }
    if (payload_bytes < 65536) {
        out[1] = mask_bit | 126;
        put_be16(out + 2, (uint16_t)payload_bytes);
        return 4;
    }
    out[1] = mask_bit | 127;
    put_be64(out + 2, payload_bytes);
    return 10;
}

static size_t websocket_send_header(uint8_t *out, uint32_t payload_bytes) {
    size_t size = websocket_header(out, payload_bytes, 0x80);
    put_be32(out + size, 0);
    return size + 4;
}

static size_t websocket_receive_header(uint8_t *out, uint32_t payload_bytes) {
    return websocket_header(out, payload_bytes, 0);
}

const struct protocol protocols_plain[] = {
    {"raw", NULL, NULL, false, NULL, plain_fill, plain_received},
    {"length", length_header, length_header, false, NULL, plain_fill, plain_received},
    {"zmtp", zmtp_header, zmtp_header, false, zmtp_handshake, plain_fill, plain_received},
    {"sp", sp_header, sp_header, false, sp_handshake, plain_fill, plain_received},
    {"sp-ipc", sp_ipc_header, sp_ipc_header, false, sp_handshake, plain_fill, plain_received},
    {"websocket", websocket_send_header, websocket_receive_header, false, websocket_handshake, plain_fill, plain_received},
};
const size_t protocols_plain_count = sizeof protocols_plain / sizeof protocols_plain[0];
