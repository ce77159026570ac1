/*
 * Runs one scenario of the framing core a number of times, for somebody who counts instructions.
 *
 * usage: core SCENARIO TIMES      prints how many units (frames, fragments, KiB) one time has
 *        core                     lists the scenarios
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kf.h"

enum { CHUNK_BYTES = 65536, BATCH = 128, FRAME_BYTES_MAX = 1 << 20, FRAGMENT_BYTES = 1176 };

static uint8_t chunk[CHUNK_BYTES];
static uint8_t large[FRAME_BYTES_MAX];
static volatile size_t sink;

static kf_length length_layout(uint32_t offset, uint32_t width, bool is_little) {
    kf_length layout;
    kf_length_init(&layout, offset, width, is_little, false, 0, offset + width, FRAME_BYTES_MAX);
    return layout;
}

/* Fills the chunk with whole frames of a length layout; returns how many bytes they take. */
static size_t length_frames(const kf_length *layout, size_t body) {
    size_t frame = layout->offset + layout->width + body, used = 0;
    for (; used + frame <= CHUNK_BYTES; used += frame) kf_length_pack(layout, body, chunk + used + layout->offset);
    return used;
}

static size_t scan_length(const kf_length *layout, size_t body, size_t times) {
    kf_slice slices[BATCH];
    kf_fault fault;
    size_t used = length_frames(layout, body), frames = 0;
    for (size_t i = 0; i < times; i++)
        for (size_t position = 0; position < used;)
            frames += kf_length_scan(layout, chunk, used, &position, slices, BATCH, &fault);
    return frames / times;
}

static size_t scan_length_16(size_t times) {
    kf_length layout = length_layout(0, 4, false);
    return scan_length(&layout, 16, times);
}

static size_t scan_length_1024(size_t times) {
    kf_length layout = length_layout(0, 4, false);
    return scan_length(&layout, 1024, times);
}

static size_t scan_general_16(size_t times) {
    kf_length layout = length_layout(3, 2, true);
    return scan_length(&layout, 16, times);
}

static size_t scan_knl(uint16_t flags, uint32_t body, size_t times) {
    kf_frame frame = {.size = body, .channel = 1, .flags = flags}, frames[BATCH];
    kf_fault fault;
    size_t used = 0, found = 0;
    for (; used + KF_KNL_HEADER_BYTES + body <= CHUNK_BYTES; used += KF_KNL_HEADER_BYTES + body)
        kf_knl_pack(&frame, chunk + used + KF_KNL_HEADER_BYTES, chunk + used);
    for (size_t i = 0; i < times; i++)
        for (size_t position = 0; position < used;)
            found += kf_knl_scan(FRAME_BYTES_MAX, chunk, used, &position, frames, BATCH, &fault);
    return found / times;
}

static size_t scan_knl_16(size_t times) { return scan_knl(0, 16, times); }

static size_t scan_knl_checksum_1024(size_t times) { return scan_knl(KF_KNL_CHECKSUM, 1024, times); }

static size_t pack_length(size_t times) {
    kf_length layout = length_layout(0, 4, false);
    enum { FIELDS = 1000 };
    for (size_t i = 0; i < times; i++)
        for (size_t at = 0; at < FIELDS; at++) kf_length_pack(&layout, at, chunk + 4 * at);
    return FIELDS;
}

static size_t pack_knl(size_t times) {
    enum { HEADERS = 1000 };
    for (size_t i = 0; i < times; i++)
        for (uint32_t at = 0; at < HEADERS; at++) {
            kf_frame frame = {.size = at, .channel = at};
            kf_knl_pack(&frame, NULL, chunk + KF_KNL_HEADER_BYTES * at);
        }
    return HEADERS;
}

static size_t crc32_kib(size_t times) {
    for (size_t i = 0; i < times; i++) sink += kf_crc32(0, chunk, CHUNK_BYTES);
    return CHUNK_BYTES / 1024;
}

static size_t place_large(size_t times) {
    size_t pieces = 0;
    for (size_t i = 0; i < times; i++)
        for (uint64_t arrived = 0; arrived < FRAME_BYTES_MAX; pieces++)
            kf_place(large, FRAME_BYTES_MAX, 4, &arrived, chunk, 4096);
    return pieces / times;
}

static size_t packets(size_t times) {
    static uint8_t seen[64];
    kf_packet packet = {.connection = 1, .message_bytes = FRAGMENT_BYTES * 50, .count = 50};
    kf_fault fault;
    for (size_t i = 0; i < times; i++) {
        kf_reassembly reassembly = {large, seen, packet.message_bytes, packet.count, packet.count};
        memset(seen, 0, sizeof seen);
        for (packet.index = 0; packet.index < packet.count; packet.index++) {
            kf_packet parsed;
            kf_packet_pack(&packet, chunk);
            sink += kf_packet_parse(chunk, KF_PACKET_HEADER_BYTES + FRAGMENT_BYTES, &parsed, &fault);
            sink += kf_reassembly_place(&reassembly, parsed.index, chunk + KF_PACKET_HEADER_BYTES, FRAGMENT_BYTES);
        }
    }
    return packet.count;
}

static const struct {
    const char *name;
    size_t (*run)(size_t times);
} scenarios[] = {
    {"scan-length-16", scan_length_16},
    {"scan-length-1024", scan_length_1024},
    {"scan-general-16", scan_general_16},
    {"scan-knl-16", scan_knl_16},
    {"scan-knl-checksum-1024", scan_knl_checksum_1024},
    {"pack-length", pack_length},
    {"pack-knl", pack_knl},
    {"crc32-kib", crc32_kib},
    {"place-4096", place_large},
    {"packet-pack-parse-place", packets},
};

int main(int argc, char **argv) {
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        if (argc == 1) puts(scenarios[i].name);
        if (argc == 3 && strcmp(argv[1], scenarios[i].name) == 0) {
            printf("%zu\n", scenarios[i].run(strtoul(argv[2], NULL, 10)));
            return 0;
        }
    }
    return argc != 1;
}
