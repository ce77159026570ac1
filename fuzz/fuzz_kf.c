/* Fuzzes the C core with libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer: see run.sh.
 *
 * The invariant: one scan over all the bytes, in batches of any size, and an embedder's loop that gets them one by one
 * (header array, open, place) find the same messages, the same fault and the same rest; what was found, packed again,
 * is what was read. The bytes lie in an allocation of exactly their size.
 *
 * An input: one byte that picks the layout, 7 that set it, then the stream.
 */
#include "kf.h"

#include <stdlib.h>
#include <string.h>

#define REQUIRE(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            __builtin_trap();                                                                                          \
    } while (0)

enum { SETTINGS_BYTES = 8, FOUND_MAX = 4096, MESSAGE_BYTES_MAX = 1 << 16 };

typedef struct found {
    size_t count;
    uint32_t checksum; /* of all messages, each after its size */
    kf_fault fault;
    size_t rest;
} found;

typedef struct reader {
    bool is_knl;
    kf_length layout;
    uint32_t frame_bytes_max;
} reader;

static void add_message(found *to, const uint8_t *data, uint64_t size)
{
    to->checksum = kf_crc32(to->checksum, &size, sizeof size);
    to->checksum = kf_crc32(to->checksum, data, (size_t)size);
    to->count++;
}

static void check_packed(const reader *how, const kf_frame *frame, const uint8_t *payload)
{
    uint8_t header[KF_KNL_HEADER_BYTES];
    kf_knl_pack(frame, payload, header);
    REQUIRE(memcmp(header, payload - sizeof header, sizeof header) == 0);
    REQUIRE(frame->size <= how->frame_bytes_max);
}

static size_t scan_batch(const reader *how, const uint8_t *data, size_t size, size_t *position, size_t batch, found *to)
{
    kf_frame frames[16];
    kf_slice slices[16];
    size_t count;

    if (!how->is_knl) {
        count = kf_length_scan(&how->layout, data, size, position, slices, batch, &to->fault);
        for (size_t i = 0; i < count; i++) {
            REQUIRE(slices[i].offset <= size && slices[i].size <= size - slices[i].offset);
            add_message(to, data + slices[i].offset, slices[i].size);
        }
        return count;
    }
    count = kf_knl_scan(how->frame_bytes_max, data, size, position, frames, batch, &to->fault);
    for (size_t i = 0; i < count; i++) {
        REQUIRE(frames[i].offset <= size && frames[i].size <= size - frames[i].offset);
        check_packed(how, &frames[i], data + frames[i].offset);
        add_message(to, data + frames[i].offset, frames[i].size);
    }
    return count;
}

static found scan_at_once(const reader *how, const uint8_t *data, size_t size, size_t batch)
{
    found all = {0};
    size_t position = 0;

    do {
        size_t before = position;
        size_t count = scan_batch(how, data, size, &position, batch, &all);
        REQUIRE(count <= batch && position >= before && position <= size);
        REQUIRE(all.fault.status != KF_FULL || count == batch);
    } while (all.fault.status == KF_FULL);
    all.rest = size - position;
    return all;
}

static kf_status open_header(const reader *how, const uint8_t *header, kf_frame *frame, uint64_t *frame_bytes,
                             kf_fault *fault)
{
    if (!how->is_knl)
        return kf_length_open(&how->layout, header, frame_bytes, fault);
    kf_status status = kf_knl_open(how->frame_bytes_max, header, frame, fault);
    *frame_bytes = (uint64_t)KF_KNL_HEADER_BYTES + frame->size;
    return status;
}

/* As an embedder reads: the header into an array, then each byte to its place. */
static found read_byte_by_byte(const reader *how, const uint8_t *data, size_t size)
{
    static uint8_t message[MESSAGE_BYTES_MAX];
    uint64_t strip = how->is_knl ? KF_KNL_HEADER_BYTES : how->layout.strip;
    size_t header_bytes = how->is_knl ? KF_KNL_HEADER_BYTES : how->layout.offset + how->layout.width;
    uint8_t header[KF_LENGTH_HEADER_BYTES_MAX];
    found all = {.fault.status = KF_MORE};
    size_t position = 0;

    while (size - position >= header_bytes) {
        kf_frame frame = {0};
        uint64_t frame_bytes, arrived = 0;
        memcpy(header, data + position, header_bytes);
        if (open_header(how, header, &frame, &frame_bytes, &all.fault) != KF_OK)
            break;
        REQUIRE(frame_bytes >= header_bytes && frame_bytes >= strip);
        if (frame_bytes > size - position)
            break;
        for (size_t i = 0; i < frame_bytes; i++)
            REQUIRE(kf_place(message, frame_bytes, strip, &arrived, data + position + i, 1) == 1);
        REQUIRE(kf_place(message, frame_bytes, strip, &arrived, data, size) == 0);
        if (frame.flags & KF_KNL_CHECKSUM && kf_knl_verify(header, message, frame.size, &all.fault) != KF_OK)
            break;
        add_message(&all, message, frame_bytes - strip);
        position += (size_t)frame_bytes;
    }
    all.rest = size - position;
    return all;
}

static void check_packet(const uint8_t *data, size_t size)
{
    kf_packet packet;
    kf_fault fault;
    uint8_t header[KF_PACKET_HEADER_BYTES];

    if (kf_packet_parse(data, size, &packet, &fault) != KF_OK)
        return;
    kf_packet_pack(&packet, header);
    REQUIRE(memcmp(header, data, sizeof header) == 0);
    if (packet.message_bytes > MESSAGE_BYTES_MAX)
        return;
    uint8_t *message = malloc(packet.message_bytes + 1), *seen = calloc(packet.count, 1);
    kf_reassembly reassembly = {message, seen, packet.message_bytes, packet.count, packet.count};
    size_t payload_bytes = size - sizeof header;
    REQUIRE(kf_reassembly_place(&reassembly, packet.index, data + sizeof header, payload_bytes) == KF_OK);
    REQUIRE(kf_reassembly_place(&reassembly, packet.index, data + sizeof header, payload_bytes) == KF_MORE);
    REQUIRE(reassembly.missing == packet.count - 1);
    free(message);
    free(seen);
}

static void set_up(reader *how, const uint8_t *settings)
{
    static const uint32_t widths[] = {1, 2, 4, 8};
    uint32_t width = widths[settings[1] & 3];

    how->is_knl = settings[0] & 1;
    how->frame_bytes_max = settings[2] << 4;
    kf_length_init(&how->layout, settings[3] % (KF_LENGTH_HEADER_BYTES_MAX + 1 - width), width, settings[1] & 4,
                   settings[1] & 8, (int8_t)settings[4], settings[5], settings[2] << 4);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t input_size)
{
    reader how;
    if (input_size < SETTINGS_BYTES)
        return 0;
    set_up(&how, input);

    size_t size = input_size - SETTINGS_BYTES;
    uint8_t *data = malloc(size + (size == 0));
    memcpy(data, input + SETTINGS_BYTES, size);
    found at_once = scan_at_once(&how, data, size, 1 + input[6] % 16);
    found one_by_one = read_byte_by_byte(&how, data, size);
    REQUIRE(at_once.count == one_by_one.count && at_once.checksum == one_by_one.checksum);
    REQUIRE(at_once.rest == one_by_one.rest && at_once.fault.status == one_by_one.fault.status);
    if (at_once.fault.status != KF_MORE) {
        REQUIRE(at_once.fault.found == one_by_one.fault.found);
        REQUIRE(at_once.fault.expected == one_by_one.fault.expected);
    }
    check_packet(data, size);
    free(data);
    return 0;
}
