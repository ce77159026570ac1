/* CRC-32, reflected polynomial 0xEDB88320, in two ways that agree.
 *
 * Everywhere: eight table lookups for eight bytes ("slicing-by-8"; Kounavis and Berry, "A Systematic Approach to
 * Building High Performance, Software-based, CRC Generators", 2005). A table is linear in its index, so each entry
 * is the sum (xor) of the entries of its index's bits: eight constants define a table of 256.
 *
 * Where the processor multiplies without carry: the remainder of 64 bytes is folded forward over the next 64
 * (Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel, 2009). Instead of
 * that paper's final reduction, the last 16 folded bytes go through the tables.
 */
#include "kf.h"

#include "kf_bytes.h"

#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define KF_CRC32_CLMUL 1
#include <immintrin.h>
#endif

#define BIT(n, k, base) ((((n) >> (k)) & 1u) ? (base) : 0u)
#define E(n, a, b, c, d, e, f, g, h)                                                                                   \
    (BIT(n, 0, a) ^ BIT(n, 1, b) ^ BIT(n, 2, c) ^ BIT(n, 3, d) ^ BIT(n, 4, e) ^ BIT(n, 5, f) ^ BIT(n, 6, g) ^          \
     BIT(n, 7, h))
#define E4(n, ...) E((n), __VA_ARGS__), E((n) + 1u, __VA_ARGS__), E((n) + 2u, __VA_ARGS__), E((n) + 3u, __VA_ARGS__)
#define E16(n, ...)                                                                                                    \
    E4((n), __VA_ARGS__), E4((n) + 4u, __VA_ARGS__), E4((n) + 8u, __VA_ARGS__), E4((n) + 12u, __VA_ARGS__)
#define E64(n, ...)                                                                                                    \
    E16((n), __VA_ARGS__), E16((n) + 16u, __VA_ARGS__), E16((n) + 32u, __VA_ARGS__), E16((n) + 48u, __VA_ARGS__)
#define TABLE(...) {E64(0u, __VA_ARGS__), E64(64u, __VA_ARGS__), E64(128u, __VA_ARGS__), E64(192u, __VA_ARGS__)}

/* tables[k][n]: the remainder of byte n followed by k zero bytes. */
static const uint32_t tables[8][256] = {
    TABLE(0x77073096, 0xee0e612c, 0x076dc419, 0x0edb8832, 0x1db71064, 0x3b6e20c8, 0x76dc4190, 0xedb88320),
    TABLE(0x191b3141, 0x32366282, 0x646cc504, 0xc8d98a08, 0x4ac21251, 0x958424a2, 0xf0794f05, 0x3b83984b),
    TABLE(0x01c26a37, 0x0384d46e, 0x0709a8dc, 0x0e1351b8, 0x1c26a370, 0x384d46e0, 0x709a8dc0, 0xe1351b80),
    TABLE(0xb8bc6765, 0xaa09c88b, 0x8f629757, 0xc5b428ef, 0x5019579f, 0xa032af3e, 0x9b14583d, 0xed59b63b),
    TABLE(0x3d6029b0, 0x7ac05360, 0xf580a6c0, 0x30704bc1, 0x60e09782, 0xc1c12f04, 0x58f35849, 0xb1e6b092),
    TABLE(0xcb5cd3a5, 0x4dc8a10b, 0x9b914216, 0xec53826d, 0x03d6029b, 0x07ac0536, 0x0f580a6c, 0x1eb014d8),
    TABLE(0xa6770bb4, 0x979f1129, 0xf44f2413, 0x33ef4e67, 0x67de9cce, 0xcfbd399c, 0x440b7579, 0x8816eaf2),
    TABLE(0xccaa009e, 0x4225077d, 0x844a0efa, 0xd3e51bb5, 0x7cbb312b, 0xf9766256, 0x299dc2ed, 0x533b85da),
};

/* The register is the checksum inverted. */
static uint32_t update_by_tables(uint32_t reg, const uint8_t *p, size_t size)
{
    for (; size >= 8; p += 8, size -= 8) {
        uint32_t low = reg ^ kf_load32_little(p);
        uint32_t high = kf_load32_little(p + 4);
        reg = tables[7][low & 0xff] ^ tables[6][low >> 8 & 0xff] ^ tables[5][low >> 16 & 0xff] ^ tables[4][low >> 24] ^
              tables[3][high & 0xff] ^ tables[2][high >> 8 & 0xff] ^ tables[1][high >> 16 & 0xff] ^
              tables[0][high >> 24];
    }
    if (size >= 4) {
        uint32_t low = reg ^ kf_load32_little(p);
        reg = tables[3][low & 0xff] ^ tables[2][low >> 8 & 0xff] ^ tables[1][low >> 16 & 0xff] ^ tables[0][low >> 24];
        p += 4;
        size -= 4;
    }
    for (; size > 0; p++, size--)
        reg = tables[0][(reg ^ *p) & 0xff] ^ reg >> 8;
    return reg;
}

#ifdef KF_CRC32_CLMUL

/* The remainder in `lanes`, moved forward by the distance that `factors` stand for, plus the bytes found there. */
__attribute__((target("pclmul,sse2"))) static inline __m128i fold(__m128i lanes, __m128i factors, __m128i next)
{
    __m128i low = _mm_clmulepi64_si128(lanes, factors, 0x00);
    __m128i high = _mm_clmulepi64_si128(lanes, factors, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

__attribute__((target("pclmul,sse2"))) static inline __m128i load(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

/* `size` is at least 64. The factors are x^(d + 32) and x^(d - 32) modulo the polynomial, reflected, for distances of
 * d = 512 and 128 bits. */
__attribute__((target("pclmul,sse2"))) static uint32_t update_by_clmul(uint32_t reg, const uint8_t *p, size_t size)
{
    const __m128i by_64_bytes = _mm_set_epi64x(0x1c6e41596, 0x154442bd4);
    const __m128i by_16_bytes = _mm_set_epi64x(0x0ccaa009e, 0x1751997d0);
    __m128i lanes = _mm_xor_si128(load(p), _mm_cvtsi32_si128((int)reg));
    __m128i lanes1 = load(p + 16), lanes2 = load(p + 32), lanes3 = load(p + 48);
    uint8_t folded[16];

    for (p += 64, size -= 64; size >= 64; p += 64, size -= 64) {
        lanes = fold(lanes, by_64_bytes, load(p));
        lanes1 = fold(lanes1, by_64_bytes, load(p + 16));
        lanes2 = fold(lanes2, by_64_bytes, load(p + 32));
        lanes3 = fold(lanes3, by_64_bytes, load(p + 48));
    }
    lanes = fold(fold(fold(lanes, by_16_bytes, lanes1), by_16_bytes, lanes2), by_16_bytes, lanes3);
    for (; size >= 16; p += 16, size -= 16)
        lanes = fold(lanes, by_16_bytes, load(p));
    _mm_storeu_si128((__m128i *)(void *)folded, lanes);
    return update_by_tables(update_by_tables(0, folded, sizeof folded), p, size);
}

#endif

uint32_t kf_crc32(uint32_t value, const void *data, size_t size)
{
#ifdef KF_CRC32_CLMUL
    if (size >= 64 && __builtin_cpu_supports("pclmul"))
        return ~update_by_clmul(~value, data, size);
#endif
    return ~update_by_tables(~value, data, size);
}
