/*
 * KNL/1: channels in one connection, each with its window. We announce what the project's own client announces as a
 * rule, give credit back in halves of the windows, and open every channel to the service `echo`.
 */
#define _GNU_SOURCE
#include "loadgen.h"

#include <assert.h>
#include <string.h>

enum { HEADER_BYTES = KNL_HEADER_BYTES, PREFACE_BYTES = 8, LENGTH_BYTES = 8, COPIED_BYTES_MAX = 1024 };
enum { DATA = 0, HELLO = 1, OPEN = 3, RESET = 5, CREDIT = 6, PING = 7, PONG = 8, GOAWAY = 9, ERROR = 10 };
enum { MORE = 1, BEGIN = 16 };
enum { FIELD_FRAME_BYTES = 1, FIELD_CHANNEL_CREDIT = 2, FIELD_CONNECTION_CREDIT = 3, FIELD_CHANNELS = 4 };
enum { OUR_FRAME_BYTES = 65536, OUR_CHANNEL_CREDIT = 1 << 20, OUR_CONNECTION_CREDIT = 4 << 20, OUR_CHANNELS = 256 };

static const uint8_t preface[PREFACE_BYTES] = {0, 'K', 'N', 'L', 1, 0, 0, 0};

static uint32_t crc32_bits(const uint8_t *data, size_t size) {
    static uint32_t table[256];
    if (table[1] == 0)
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t value = i;
            for (int bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320u ^ value >> 1 : value >> 1;
            table[i] = value;
        }
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < size; i++) crc = table[(crc ^ data[i]) & 255] ^ crc >> 8;
    return ~crc;
}

static void frame_header(uint8_t *out, uint8_t type, uint16_t flags, uint32_t channel, size_t payload_bytes) {
    out[0] = 1;
    out[1] = type;
    put_be16(out + 2, flags);
    put_be32(out + 4, channel);
    put_be32(out + 8, (uint32_t)payload_bytes);
    put_be32(out + 12, crc32_bits(out, 12));
}

/* ---- the handshake ---- */

static size_t field(uint8_t *out, uint16_t key, uint32_t value) {
    put_be16(out, key);
    put_be16(out + 2, 4);
    put_be32(out + 4, value);
    return 8;
}

static uint32_t field_of(const uint8_t *payload, size_t size, uint16_t wanted) {
    for (size_t at = 0; at + 4 <= size;) {
        uint16_t key = (uint16_t)(payload[at] << 8 | payload[at + 1]);
        size_t length = (size_t)(payload[at + 2] << 8 | payload[at + 3]);
        if (key == wanted && length == 4 && at + 8 <= size) return get_be32(payload + at + 4);
        at += 4 + length;
    }
    die("the server's HELLO lacks field %u", wanted);
}

static void send_hello(struct connection *c) {
    uint8_t out[PREFACE_BYTES + HEADER_BYTES + 64], *payload = out + PREFACE_BYTES + HEADER_BYTES;
    size_t size = field(payload, FIELD_FRAME_BYTES, OUR_FRAME_BYTES);
    size += field(payload + size, FIELD_CHANNEL_CREDIT, OUR_CHANNEL_CREDIT);
    size += field(payload + size, FIELD_CONNECTION_CREDIT, OUR_CONNECTION_CREDIT);
    size += field(payload + size, FIELD_CHANNELS, OUR_CHANNELS);
    memcpy(out, preface, sizeof preface);
    frame_header(out + PREFACE_BYTES, HELLO, 0, 0, size);
    must_send(c->fd, out, PREFACE_BYTES + HEADER_BYTES + size);
}

static void receive_hello(struct run *run, struct connection *c) {
    uint8_t head[PREFACE_BYTES + HEADER_BYTES], payload[CONTROL_FRAME_BYTES_MAX];
    must_receive(c->fd, head, sizeof head);
    if (memcmp(head, preface, 5) != 0) die("the server speaks no KNL/1");
    size_t size = get_be32(head + PREFACE_BYTES + 8);
    if (head[PREFACE_BYTES + 1] != HELLO || size > sizeof payload) die("the server said no HELLO");
    must_receive(c->fd, payload, size);
    c->frame_bytes_max = field_of(payload, size, FIELD_FRAME_BYTES);
    c->credit_bytes = field_of(payload, size, FIELD_CONNECTION_CREDIT);
    for (uint32_t i = 0; i < run->options->channels; i++)
        c->channels[i].credit_bytes = field_of(payload, size, FIELD_CHANNEL_CREDIT);
}

static void knl_handshake(struct run *run, struct connection *c) {
    static const uint8_t service[] = {0, 1, 0, 4, 'e', 'c', 'h', 'o'};
    uint8_t out[HEADER_BYTES + sizeof service];
    send_hello(c);
    receive_hello(run, c);
    memcpy(out + HEADER_BYTES, service, sizeof service);
    for (uint32_t i = 0; i < run->options->channels; i++) {
        struct channel *channel = &c->channels[i];
        channel->id = 2 * i + 1;
        frame_header(channel->header, DATA, 0, channel->id, run->options->payload_bytes);
        frame_header(out, OPEN, 0, channel->id, sizeof service);
        must_send(c->fd, out, sizeof out);
    }
}

/* ---- sending ---- */

static void control(struct connection *c, uint8_t type, uint32_t channel, const uint8_t *data, size_t size) {
    if (size + HEADER_BYTES > sizeof c->control - c->control_used) die("too many control frames are due");
    frame_header(c->control + c->control_used, type, 0, channel, size);
    if (size > 0) memcpy(c->control + c->control_used + HEADER_BYTES, data, size);
    c->control_used += size + HEADER_BYTES;
}

static bool pay(struct connection *c, struct channel *channel, size_t cost) {
    if (c->credit_bytes < (int64_t)cost || channel->credit_bytes < (int64_t)cost) return false;
    c->credit_bytes -= (int64_t)cost;
    channel->credit_bytes -= (int64_t)cost;
    return true;
}

static void queue_payload(struct connection *c, const uint8_t *payload, size_t size) {
    if (size <= COPIED_BYTES_MAX)
        queue_copy(c, payload, size);
    else
        queue_reference(c, payload, size);
}

static bool fill_whole(struct run *run, struct connection *c, struct channel *channel, const uint8_t *payload) {
    size_t size = run->options->payload_bytes;
    if (!pay(c, channel, HEADER_BYTES + size)) return false;
    queue_copy(c, channel->header, HEADER_BYTES);
    queue_payload(c, payload, size);
    return true;
}

/* The next frame of a message that is longer than a frame; `send_offset` counts in bytes of the message. */
static bool fill_part(struct run *run, struct connection *c, struct channel *channel, const uint8_t *payload) {
    uint8_t head[HEADER_BYTES + LENGTH_BYTES];
    size_t total = run->options->payload_bytes, prefix = channel->send_offset == 0 ? LENGTH_BYTES : 0;
    size_t size = total - channel->send_offset;
    if (size > c->frame_bytes_max - prefix) size = c->frame_bytes_max - prefix;
    if (!pay(c, channel, HEADER_BYTES + prefix + size)) return false;
    uint16_t flags = (uint16_t)((prefix ? BEGIN : 0) | (channel->send_offset + size < total ? MORE : 0));
    frame_header(head, DATA, flags, channel->id, prefix + size);
    put_be64(head + HEADER_BYTES, total);
    queue_copy(c, head, HEADER_BYTES + prefix);
    queue_payload(c, payload + channel->send_offset, size);
    channel->send_offset = (channel->send_offset + size) % total;
    return true;
}

static void fill_channel(struct run *run, struct connection *c, struct channel *channel) {
    bool is_long = run->options->payload_bytes > c->frame_bytes_max;
    while (queue_has_room(c, HEADER_BYTES + LENGTH_BYTES + COPIED_BYTES_MAX)) {
        if (channel->send_offset == 0) {
            if (channel_room(run, channel) == 0) return;
            channel->sending = run->send.bytes + channel->sent % run->send.messages * run->send.message_bytes;
        }
        bool starts = channel->send_offset == 0;
        if (!(is_long ? fill_part : fill_whole)(run, c, channel, channel->sending)) return;
        if (starts) channel_sending(run, channel, 1);
    }
}

static void knl_fill(struct run *run, struct connection *c) {
    queue_copy(c, c->control, c->control_used);
    c->control_used = 0;
    for (uint32_t i = 0; i < run->options->channels; i++) {
        fill_channel(run, c, &c->channels[c->channel_next]);
        c->channel_next = (c->channel_next + 1) % run->options->channels;
    }
}

/* ---- receiving ---- */

static struct channel *channel_of(const struct run *run, struct connection *c, uint32_t id) {
    uint32_t index = (id - 1) / 2;
    if (id % 2 == 0 || index >= run->options->channels) die("a frame for channel %u, which is not open", id);
    return &c->channels[index];
}

static void give_credit(struct connection *c, struct channel *channel, size_t cost) {
    uint8_t amount[4];
    channel->unacknowledged_bytes += cost;
    c->unacknowledged_bytes += (int64_t)cost;
    if (channel->unacknowledged_bytes >= OUR_CHANNEL_CREDIT / 2) {
        put_be32(amount, (uint32_t)channel->unacknowledged_bytes);
        control(c, CREDIT, channel->id, amount, sizeof amount);
        channel->unacknowledged_bytes = 0;
    }
    if (c->unacknowledged_bytes >= OUR_CONNECTION_CREDIT / 2) {
        put_be32(amount, (uint32_t)c->unacknowledged_bytes);
        control(c, CREDIT, 0, amount, sizeof amount);
        c->unacknowledged_bytes = 0;
    }
}

static void got_control(struct run *run, struct connection *c, const uint8_t *header, const uint8_t *data, size_t size) {
    uint8_t type = header[1];
    uint32_t id = get_be32(header + 4);
    if (type == RESET || type == ERROR || type == GOAWAY)
        die("the server sent frame type %d: %.*s", type, size > 2 ? (int)size - 2 : 0, (const char *)data + 2);
    if (type == PING) control(c, PONG, 0, data, size);
    if (type == CREDIT) *(id == 0 ? &c->credit_bytes : &channel_of(run, c, id)->credit_bytes) += get_be32(data);
}

static void got_data_header(struct run *run, struct connection *c, const uint8_t *header) {
    c->payload_left = get_be32(header + 8);
    c->payload_channel = channel_of(run, c, get_be32(header + 4));
    c->payload_skip = header[3] & BEGIN ? LENGTH_BYTES : 0;
    give_credit(c, c->payload_channel, HEADER_BYTES + c->payload_left);
}

static size_t got_payload(struct run *run, struct connection *c, const uint8_t *data, size_t size) {
    size_t taken = size < c->payload_left ? size : c->payload_left;
    size_t skipped = taken < c->payload_skip ? taken : c->payload_skip;
    c->payload_skip -= skipped;
    c->payload_left -= taken;
    channel_received(run, c->payload_channel, data + skipped, taken - skipped);
    return taken;
}

/* Gathers a header in `partial`, and behind it a control frame's payload. Returns how much it took. */
static size_t gather(struct run *run, struct connection *c, const uint8_t *data, size_t size) {
    bool in_header = c->partial_used < HEADER_BYTES;
    size_t wanted = HEADER_BYTES + (in_header ? 0 : get_be32(c->partial + 8));
    if (wanted > sizeof c->partial) die("a control frame of %zu bytes is too long", wanted);
    size_t missing = wanted - c->partial_used, taken = missing < size ? missing : size;
    memcpy(c->partial + c->partial_used, data, taken);
    c->partial_used += taken;
    if (c->partial_used < wanted) return taken;
    if (c->partial[0] != 1) die("a frame of version %d", c->partial[0]);
    if (c->partial[1] == DATA) {
        got_data_header(run, c, c->partial);
    } else {
        size_t payload_bytes = get_be32(c->partial + 8);
        if (wanted < HEADER_BYTES + payload_bytes) return taken;
        got_control(run, c, c->partial, c->partial + HEADER_BYTES, payload_bytes);
    }
    c->partial_used = 0;
    return taken;
}

static void knl_received(struct run *run, struct connection *c, const uint8_t *data, size_t size) {
    while (size > 0) {
        size_t taken;
        if (c->payload_left > 0) {
            taken = got_payload(run, c, data, size);
        } else if (c->partial_used == 0 && size >= HEADER_BYTES && data[0] == 1 && data[1] == DATA) {
            got_data_header(run, c, data);
            taken = HEADER_BYTES;
        } else {
            taken = gather(run, c, data, size);
        }
        data += taken;
        size -= taken;
    }
}

const struct protocol protocol_knl = {"knl", NULL, NULL, true, knl_handshake, knl_fill, knl_received};
