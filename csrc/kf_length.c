/* Frames that carry their length.
 *
 * A field is valid when it is one of `length_count` values from `length_min` on: one unsigned comparison, which a
 * negative length (sign-extended: huge) fails like any other. Which rule was broken is worked out only then. Valid
 * values are at most 2^40 + 2^31, so that nothing that is computed from them overflows.
 */
#include "kf.h"

#include <assert.h>
#include <string.h>

#include "kf_bytes.h"

#ifdef __GNUC__
#define INLINE __attribute__((always_inline)) static inline
#else
#define INLINE static inline
#endif

static uint64_t load_big(const uint8_t *p, uint32_t width)
{
    switch (width) {
    case 1:
        return p[0];
    case 2:
        return kf_load16(p);
    case 4:
        return kf_load32(p);
    default:
        return kf_load64(p);
    }
}

static uint64_t load_little(const uint8_t *p, uint32_t width)
{
    switch (width) {
    case 1:
        return p[0];
    case 2:
        return (uint64_t)p[1] << 8 | p[0];
    case 4:
        return kf_load32_little(p);
    default:
        return kf_load64_little(p);
    }
}

static inline uint64_t load_field(const kf_length *layout, const uint8_t *field)
{
    uint64_t value = layout->is_little ? load_little(field, layout->width) : load_big(field, layout->width);
    if (layout->is_signed) {
        uint64_t sign = (uint64_t)1 << (8 * layout->width - 1);
        value = (value ^ sign) - sign;
    }
    return value;
}

/* Bytes of a frame beyond the value of its field; modulo 2^64, since `adjust` may be negative. */
static uint64_t overhead(const kf_length *layout)
{
    return layout->offset + layout->width + (uint64_t)layout->adjust;
}

static kf_status refuse(const kf_length *layout, uint64_t length, kf_fault *fault)
{
    fault->found = length;
    fault->expected = layout->length_min;
    if (layout->is_signed && (int64_t)length < 0) {
        fault->status = KF_NEGATIVE_LENGTH;
    } else if (length < layout->length_min) {
        fault->status = KF_SHORT_LENGTH;
    } else {
        fault->status = KF_TOO_LARGE;
        fault->expected = layout->frame_bytes_max;
    }
    return fault->status;
}

void kf_length_init(kf_length *layout, uint32_t offset, uint32_t width, bool is_little, bool is_signed, int64_t adjust,
                    uint64_t strip, uint64_t frame_bytes_max)
{
    assert(width == 1 || width == 2 || width == 4 || width == 8);
    assert(offset <= KF_LENGTH_HEADER_BYTES_MAX - width);
    assert(adjust >= -((int64_t)1 << 31) && adjust <= (int64_t)1 << 31);
    assert(strip <= (uint64_t)1 << 41);
    assert(frame_bytes_max <= (uint64_t)1 << 40);

    uint32_t header_bytes = offset + width;
    int64_t body_min = strip > header_bytes ? (int64_t)(strip - header_bytes) : 0;
    int64_t length_min = body_min > adjust ? body_min - adjust : 0;
    int64_t length_max = (int64_t)frame_bytes_max - adjust;

    layout->offset = offset;
    layout->width = width;
    layout->is_little = is_little;
    layout->is_signed = is_signed;
    layout->adjust = adjust;
    layout->strip = strip;
    layout->frame_bytes_max = frame_bytes_max;
    layout->length_min = (uint64_t)length_min;
    layout->length_count = length_max >= length_min ? (uint64_t)(length_max - length_min + 1) : 0;
}

/* The scan itself; `is_usual` is known where it is called, so that the compiler makes two of it. */
INLINE size_t scan(const kf_length *layout, const uint8_t *data, size_t size, size_t *position, kf_slice *slices,
                   size_t slices_max, kf_fault *fault, bool is_usual)
{
    const kf_length local = *layout; /* the slices may alias the layout, for all the compiler knows */
    const size_t header_bytes = local.offset + local.width;
    size_t at = *position, count = 0;
    assert(at <= size);

    fault->status = KF_MORE;
    while (size - at >= header_bytes) {
        const uint8_t *field = data + at + local.offset;
        uint64_t length = is_usual ? kf_load32(field) : load_field(&local, field);
        if (length - local.length_min >= local.length_count) {
            refuse(&local, length, fault);
            break;
        }
        uint64_t frame_bytes = length + overhead(&local);
        if (frame_bytes > size - at)
            break;
        if (count == slices_max) {
            fault->status = KF_FULL;
            break;
        }
        slices[count].offset = at + (size_t)local.strip;
        slices[count].size = (size_t)(frame_bytes - local.strip);
        count++;
        at += (size_t)frame_bytes;
    }
    *position = at;
    return count;
}

size_t kf_length_scan(const kf_length *layout, const uint8_t *data, size_t size, size_t *position, kf_slice *slices,
                      size_t slices_max, kf_fault *fault)
{
    if (layout->width == 4 && !layout->is_little && !layout->is_signed)
        return scan(layout, data, size, position, slices, slices_max, fault, true);
    return scan(layout, data, size, position, slices, slices_max, fault, false);
}

kf_status kf_length_open(const kf_length *layout, const uint8_t *header, uint64_t *frame_bytes, kf_fault *fault)
{
    uint64_t length = load_field(layout, header + layout->offset);
    if (length - layout->length_min >= layout->length_count)
        return refuse(layout, length, fault);
    *frame_bytes = length + overhead(layout);
    return KF_OK;
}

static void store_big(uint8_t *p, uint32_t width, uint64_t value)
{
    switch (width) {
    case 1:
        p[0] = (uint8_t)value;
        break;
    case 2:
        kf_store16(p, (uint16_t)value);
        break;
    case 4:
        kf_store32(p, (uint32_t)value);
        break;
    default:
        kf_store64(p, value);
    }
}

static void store_little(uint8_t *p, uint32_t width, uint64_t value)
{
    for (uint32_t i = 0; i < width; i++)
        p[i] = (uint8_t)(value >> (8 * i));
}

bool kf_length_pack(const kf_length *layout, uint64_t body_bytes, uint8_t *field)
{
    uint32_t bits = 8 * layout->width - layout->is_signed;
    uint64_t length = body_bytes - (uint64_t)layout->adjust;
    assert(body_bytes <= (uint64_t)1 << 62);

    if ((int64_t)length < 0 || (bits < 63 && length >> bits != 0))
        return false;
    if (layout->is_little)
        store_little(field, layout->width, length);
    else
        store_big(field, layout->width, length);
    return true;
}
