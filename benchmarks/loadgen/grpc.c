/*
 * gRPC: one bidirectional stream a connection, on as much of HTTP/2 (RFC 9113) as that takes: settings, flow control in
 * both directions, pings. Our own receive windows are as large as the protocol allows, so that the server never waits.
 */
#define _GNU_SOURCE
#include "loadgen.h"

#include <assert.h>
#include <string.h>

enum { FRAME_HEADER_BYTES = 9, FRAME_BYTES_MAX = 16384, PREFIX_BYTES = 5, STREAM = 1 };
enum { DATA = 0, HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, PING = 6, GOAWAY = 7, WINDOW_UPDATE = 8 };
enum { ACK = 1, END_STREAM = 1, END_HEADERS = 4, SETTING_INITIAL_WINDOW = 4 };
static const uint32_t WINDOW_DEFAULT = 65535, WINDOW_MAX = 0x7fffffff, WINDOW_RETURN_BYTES = 1 << 28;

static size_t grpc_header(uint8_t *out, uint32_t payload_bytes) {
    out[0] = 0; /* not compressed */
    put_be32(out + 1, payload_bytes);
    return PREFIX_BYTES;
}

static void frame_header(uint8_t *out, size_t payload_bytes, uint8_t type, uint8_t flags, uint32_t stream) {
    out[0] = (uint8_t)(payload_bytes >> 16);
    put_be16(out + 1, (uint16_t)payload_bytes);
    out[3] = type;
    out[4] = flags;
    put_be32(out + 5, stream);
}

static size_t literal(uint8_t *out, const char *text) {
    size_t size = strlen(text);
    assert(size < 127);
    out[0] = (uint8_t)size;
    memcpy(out + 1, text, size);
    return size + 1;
}

/* The request's header block in HPACK (RFC 7541), nothing indexed, nothing compressed. */
static size_t header_block(uint8_t *out) {
    static const char *const fields[] = {"te", "trailers", "content-type", "application/grpc"};
    size_t size = 0;
    out[size++] = 0x83; /* :method POST */
    out[size++] = 0x86; /* :scheme http */
    out[size++] = 0x04; /* :path */
    size += literal(out + size, "/bench.Echo/Echo");
    out[size++] = 0x01; /* :authority */
    size += literal(out + size, "localhost");
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i += 2) {
        out[size++] = 0x00;
        size += literal(out + size, fields[i]);
        size += literal(out + size, fields[i + 1]);
    }
    return size;
}

static void grpc_handshake(struct run *run, struct connection *c) {
    (void)run;
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    uint8_t out[512];
    size_t size = sizeof preface - 1;
    memcpy(out, preface, size);
    frame_header(out + size, 6, SETTINGS, 0, 0);
    put_be16(out + size + 9, SETTING_INITIAL_WINDOW);
    put_be32(out + size + 11, WINDOW_MAX);
    size += 15;
    frame_header(out + size, 4, WINDOW_UPDATE, 0, 0);
    put_be32(out + size + 9, WINDOW_MAX - WINDOW_DEFAULT);
    size += 13;
    size_t block = header_block(out + size + FRAME_HEADER_BYTES);
    frame_header(out + size, block, HEADERS, END_HEADERS, STREAM);
    must_send(c->fd, out, size + FRAME_HEADER_BYTES + block);
    c->credit_bytes = c->channels[0].credit_bytes = WINDOW_DEFAULT;
}

/* ---- sending ---- */

static void control(struct connection *c, uint8_t type, uint8_t flags, uint32_t stream, const uint8_t *data, size_t size) {
    if (size + FRAME_HEADER_BYTES > sizeof c->control - c->control_used) die("too many control frames are due");
    frame_header(c->control + c->control_used, size, type, flags, stream);
    if (size > 0) memcpy(c->control + c->control_used + FRAME_HEADER_BYTES, data, size);
    c->control_used += size + FRAME_HEADER_BYTES;
}

static size_t sendable(const struct run *run, const struct connection *c, const struct channel *channel) {
    size_t pattern_bytes = run->send.messages * run->send.message_bytes;
    size_t size = pattern_bytes - channel->send_offset;
    if (size > channel->send_left_bytes) size = channel->send_left_bytes;
    if (size > FRAME_BYTES_MAX) size = FRAME_BYTES_MAX;
    int64_t credit = c->credit_bytes < channel->credit_bytes ? c->credit_bytes : channel->credit_bytes;
    if (credit <= 0) return 0;
    return (int64_t)size < credit ? size : (size_t)credit;
}

static void grpc_fill(struct run *run, struct connection *c) {
    struct channel *channel = &c->channels[0];
    size_t pattern_bytes = run->send.messages * run->send.message_bytes, size;
    uint32_t room = channel_room(run, channel);
    queue_copy(c, c->control, c->control_used);
    c->control_used = 0;
    channel_sending(run, channel, room);
    channel->send_left_bytes += room * run->send.message_bytes;
    while (queue_has_room(c, FRAME_HEADER_BYTES) && (size = sendable(run, c, channel)) > 0) {
        uint8_t header[FRAME_HEADER_BYTES];
        frame_header(header, size, DATA, 0, STREAM);
        queue_copy(c, header, sizeof header);
        queue_reference(c, run->send.bytes + channel->send_offset, size);
        channel->send_offset = (channel->send_offset + size) % pattern_bytes;
        channel->send_left_bytes -= size;
        channel->credit_bytes -= (int64_t)size;
        c->credit_bytes -= (int64_t)size;
    }
}

/* ---- receiving ---- */

static void got_settings(struct connection *c, const uint8_t *payload, size_t size) {
    for (size_t i = 0; i + 6 <= size; i += 6)
        if (payload[i] == 0 && payload[i + 1] == SETTING_INITIAL_WINDOW)
            c->channels[0].credit_bytes += (int64_t)get_be32(payload + i + 2) - WINDOW_DEFAULT;
    control(c, SETTINGS, ACK, 0, NULL, 0);
}

static void got_control(struct connection *c, const uint8_t *header, const uint8_t *payload, size_t size) {
    uint8_t type = header[3], flags = header[4];
    if (type == RST_STREAM || type == GOAWAY || (type == HEADERS && (flags & END_STREAM)))
        die("the gRPC server ended the call (frame type %d)", type);
    if (type == SETTINGS && !(flags & ACK)) got_settings(c, payload, size);
    if (type == PING && !(flags & ACK)) control(c, PING, ACK, 0, payload, size);
    if (type != WINDOW_UPDATE) return;
    int64_t *credit = get_be32(header + 5) == 0 ? &c->credit_bytes : &c->channels[0].credit_bytes;
    *credit += get_be32(payload);
}

static void got_data(struct run *run, struct connection *c, const uint8_t *data, size_t size) {
    channel_received(run, &c->channels[0], data, size);
    c->unacknowledged_bytes += (int64_t)size;
    if (c->unacknowledged_bytes < WINDOW_RETURN_BYTES) return;
    uint8_t increment[4];
    put_be32(increment, (uint32_t)c->unacknowledged_bytes);
    control(c, WINDOW_UPDATE, 0, 0, increment, sizeof increment);
    control(c, WINDOW_UPDATE, 0, STREAM, increment, sizeof increment);
    c->unacknowledged_bytes = 0;
}

/* Gathers a header, and behind it the payload of anything but DATA, in `partial`. Returns how much it took. */
static size_t gather(struct connection *c, size_t wanted, const uint8_t *data, size_t size) {
    if (wanted > sizeof c->partial) die("a control frame of %zu bytes is too long", wanted);
    size_t missing = wanted - c->partial_used, taken = size < missing ? size : missing;
    memcpy(c->partial + c->partial_used, data, taken);
    c->partial_used += taken;
    return taken;
}

static void grpc_received(struct run *run, struct connection *c, const uint8_t *data, size_t size) {
    while (size > 0) {
        size_t taken;
        if (c->payload_left > 0) {
            taken = size < c->payload_left ? size : c->payload_left;
            got_data(run, c, data, taken);
            c->payload_left -= taken;
        } else if (c->partial_used < FRAME_HEADER_BYTES) {
            taken = gather(c, FRAME_HEADER_BYTES, data, size);
        } else {
            taken = 0;
        }
        data += taken;
        size -= taken;
        if (c->partial_used < FRAME_HEADER_BYTES) continue;
        size_t payload = (size_t)c->partial[0] << 16 | (size_t)c->partial[1] << 8 | c->partial[2];
        if (c->partial[3] == DATA) {
            c->payload_left = payload;
            c->partial_used = 0;
            continue;
        }
        taken = gather(c, FRAME_HEADER_BYTES + payload, data, size);
        data += taken;
        size -= taken;
        if (c->partial_used < FRAME_HEADER_BYTES + payload) continue;
        got_control(c, c->partial, c->partial + FRAME_HEADER_BYTES, payload);
        c->partial_used = 0;
    }
}

const struct protocol protocol_grpc = {
    "grpc", grpc_header, grpc_header, false, grpc_handshake, grpc_fill, grpc_received};
