/* Where the parts of a message belong: the pieces of a large frame, and the fragments of a datagram message. */
#include "kf.h"

#include <assert.h>
#include <string.h>

#include "kf_bytes.h"

enum {
    VERSION_AT = 2,
    KIND_AT = 3,
    CONNECTION_AT = 4,
    SEQUENCE_AT = 12,
    INDEX_AT = 16,
    COUNT_AT = 18,
    MESSAGE_AT = 20
};

size_t kf_place(uint8_t *message, uint64_t frame_bytes, uint64_t strip, uint64_t *arrived, const uint8_t *data,
                size_t size)
{
    assert(*arrived <= frame_bytes && strip <= frame_bytes);
    uint64_t missing = frame_bytes - *arrived;
    size_t taken = missing < size ? (size_t)missing : size;
    uint64_t stripped = *arrived < strip ? strip - *arrived : 0;

    if (stripped < taken) {
        size_t skipped = (size_t)stripped;
        memcpy(message + (*arrived + skipped - strip), data + skipped, taken - skipped);
    }
    *arrived += taken;
    return taken;
}

static kf_status refuse(kf_fault *fault, kf_status status, uint64_t found, uint64_t expected)
{
    fault->status = status;
    fault->found = found;
    fault->expected = expected;
    return status;
}

kf_status kf_packet_parse(const uint8_t *data, size_t size, kf_packet *packet, kf_fault *fault)
{
    if (size < KF_PACKET_HEADER_BYTES)
        return refuse(fault, KF_TRUNCATED, size, KF_PACKET_HEADER_BYTES);
    if (kf_load16(data) != KF_PACKET_MAGIC)
        return refuse(fault, KF_BAD_MAGIC, kf_load16(data), KF_PACKET_MAGIC);
    if (data[VERSION_AT] != KF_PACKET_VERSION)
        return refuse(fault, KF_BAD_VERSION, data[VERSION_AT], KF_PACKET_VERSION);
    packet->kind = data[KIND_AT];
    packet->connection = kf_load64(data + CONNECTION_AT);
    packet->sequence = kf_load32(data + SEQUENCE_AT);
    packet->index = kf_load16(data + INDEX_AT);
    packet->count = kf_load16(data + COUNT_AT);
    packet->message_bytes = kf_load32(data + MESSAGE_AT);
    if (!kf_fragment_fits(packet->index, packet->count, packet->message_bytes, size - KF_PACKET_HEADER_BYTES))
        return refuse(fault, KF_BAD_FRAGMENT, size - KF_PACKET_HEADER_BYTES, 0);
    return KF_OK;
}

void kf_packet_pack(const kf_packet *packet, uint8_t *header)
{
    kf_store16(header, KF_PACKET_MAGIC);
    header[VERSION_AT] = KF_PACKET_VERSION;
    header[KIND_AT] = packet->kind;
    kf_store64(header + CONNECTION_AT, packet->connection);
    kf_store32(header + SEQUENCE_AT, packet->sequence);
    kf_store16(header + INDEX_AT, packet->index);
    kf_store16(header + COUNT_AT, packet->count);
    kf_store32(header + MESSAGE_AT, packet->message_bytes);
}

uint32_t kf_fragment_bytes(uint16_t count, uint32_t message_bytes)
{
    assert(count > 0);
    return message_bytes / count + (message_bytes % count != 0);
}

bool kf_fragment_count_fits(uint16_t count, uint32_t message_bytes)
{
    if (count <= 1)
        return count == 1;
    return (uint64_t)kf_fragment_bytes(count, message_bytes) * (count - 1u) < message_bytes;
}

bool kf_fragment_fits(uint16_t index, uint16_t count, uint32_t message_bytes, size_t size)
{
    if (index >= count || !kf_fragment_count_fits(count, message_bytes))
        return false;
    uint32_t step = kf_fragment_bytes(count, message_bytes);
    return size == (index < count - 1u ? step : message_bytes - step * (count - 1u));
}

kf_status kf_reassembly_place(kf_reassembly *reassembly, uint16_t index, const uint8_t *data, size_t size)
{
    if (!kf_fragment_fits(index, reassembly->count, reassembly->message_bytes, size))
        return KF_BAD_FRAGMENT;
    if (reassembly->seen[index])
        return KF_MORE;
    if (size > 0)
        memcpy(reassembly->message + (size_t)index * kf_fragment_bytes(reassembly->count, reassembly->message_bytes),
               data, size);
    reassembly->seen[index] = 1;
    reassembly->missing--;
    return KF_OK;
}
