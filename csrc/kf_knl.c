/* KNL/1 frames.
 *
 * Frames of one burst mostly repeat the header of the frame before: a header of the same 16 bytes has the same
 * meaning and the same validity, so that a scan parses and checks only the ones that differ.
 */
#include "kf.h"

#include <assert.h>
#include <string.h>

#include "kf_bytes.h"

enum { TYPE_AT = 1, FLAGS_AT = 2, CHANNEL_AT = 4, LENGTH_AT = 8, CRC_AT = 12 };

static kf_status refuse(kf_fault *fault, kf_status status, uint64_t found, uint64_t expected)
{
    fault->status = status;
    fault->found = found;
    fault->expected = expected;
    return status;
}

kf_status kf_knl_verify(const uint8_t *header, const uint8_t *payload, size_t size, kf_fault *fault)
{
    uint32_t computed = kf_crc32(kf_crc32(0, header, CRC_AT), payload, size);
    uint32_t found = kf_load32(header + CRC_AT);
    return found == computed ? KF_OK : refuse(fault, KF_BAD_CHECKSUM, found, computed);
}

kf_status kf_knl_open(uint32_t frame_bytes_max, const uint8_t *header, kf_frame *frame, kf_fault *fault)
{
    frame->type = header[TYPE_AT];
    frame->flags = kf_load16(header + FLAGS_AT);
    frame->channel = kf_load32(header + CHANNEL_AT);
    frame->size = kf_load32(header + LENGTH_AT);
    if (header[0] != KF_KNL_VERSION)
        return refuse(fault, KF_BAD_VERSION, header[0], KF_KNL_VERSION);
    if (!(frame->flags & KF_KNL_CHECKSUM) && kf_knl_verify(header, NULL, 0, fault) != KF_OK)
        return fault->status;
    if (frame->size > frame_bytes_max)
        return refuse(fault, KF_TOO_LARGE, frame->size, frame_bytes_max);
    return KF_OK;
}

size_t kf_knl_scan(uint32_t frame_bytes_max, const uint8_t *data, size_t size, size_t *position, kf_frame *frames,
                   size_t frames_max, kf_fault *fault)
{
    uint8_t header[KF_KNL_HEADER_BYTES];
    bool is_known = false;
    kf_frame frame = {0};
    size_t at = *position, count = 0;
    assert(at <= size);

    fault->status = KF_MORE;
    while (size - at >= KF_KNL_HEADER_BYTES) {
        if (!is_known || memcmp(header, data + at, sizeof header) != 0) {
            memcpy(header, data + at, sizeof header);
            if (kf_knl_open(frame_bytes_max, header, &frame, fault) != KF_OK)
                break;
            is_known = true;
        }
        if (frame.size > size - at - KF_KNL_HEADER_BYTES)
            break;
        if (count == frames_max) {
            fault->status = KF_FULL;
            break;
        }
        frame.offset = at + KF_KNL_HEADER_BYTES;
        if (frame.flags & KF_KNL_CHECKSUM && kf_knl_verify(header, data + frame.offset, frame.size, fault) != KF_OK)
            break;
        frames[count++] = frame;
        at = frame.offset + frame.size;
    }
    *position = at;
    return count;
}

void kf_knl_pack(const kf_frame *frame, const uint8_t *payload, uint8_t *header)
{
    header[0] = KF_KNL_VERSION;
    header[TYPE_AT] = frame->type;
    kf_store16(header + FLAGS_AT, frame->flags);
    kf_store32(header + CHANNEL_AT, frame->channel);
    kf_store32(header + LENGTH_AT, frame->size);
    uint32_t crc = kf_crc32(0, header, CRC_AT);
    if (frame->flags & KF_KNL_CHECKSUM)
        crc = kf_crc32(crc, payload, frame->size);
    kf_store32(header + CRC_AT, crc);
}
