/* CRC-32 as zlib and IEEE 802.3 define it (reflected polynomial 0xEDB88320). */
#ifndef KF_CRC32_H
#define KF_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* Continues `value` (0 to start) over `size` bytes at `data`. */
uint32_t kf_crc32(uint32_t value, const void *data, size_t size);

#endif
