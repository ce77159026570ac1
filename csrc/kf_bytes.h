/* Integers in bytes, of either order, at any address. */
#ifndef KF_BYTES_H
#define KF_BYTES_H

#include <stdint.h>

static inline uint16_t kf_load16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t kf_load32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline uint64_t kf_load64(const uint8_t *p)
{
    return (uint64_t)kf_load32(p) << 32 | kf_load32(p + 4);
}

static inline uint32_t kf_load32_little(const uint8_t *p)
{
    return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
}

static inline uint64_t kf_load64_little(const uint8_t *p)
{
    return (uint64_t)kf_load32_little(p + 4) << 32 | kf_load32_little(p);
}

static inline void kf_store16(uint8_t *p, uint16_t value)
{
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}

static inline void kf_store32(uint8_t *p, uint32_t value)
{
    kf_store16(p, (uint16_t)(value >> 16));
    kf_store16(p + 2, (uint16_t)value);
}

static inline void kf_store64(uint8_t *p, uint64_t value)
{
    kf_store32(p, (uint32_t)(value >> 32));
    kf_store32(p + 4, (uint32_t)value);
}

#endif
