#include "kf_crc32.h"

uint32_t kf_crc32(uint32_t value, const void *data, size_t size)
{
    const uint8_t *byte = data;
    value = ~value;
    while (size--) {
        value ^= *byte++;
        for (int bit = 0; bit < 8; bit++)
            value = (value >> 1) ^ (0xEDB88320u & (0u - (value & 1u)));
    }
    return ~value;
}
