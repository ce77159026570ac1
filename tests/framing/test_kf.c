/* The C core by itself: what an embedder relies on, and what Python can't reach. Built and run by test_core.py, with
 * all warnings as errors, under the address and undefined-behaviour sanitizers where the compiler has them. */
#include "kf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);                                                     \
            failures++;                                                                                                \
        }                                                                                                              \
    } while (0)

/* A copy whose end is the end of an allocation, so that a sanitizer sees what is read beyond it. */
static uint8_t *exact_copy(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size + (size == 0));
    if (copy == NULL)
        abort();
    memcpy(copy, data, size);
    return copy;
}

static uint32_t crc32_bit_by_bit(uint32_t value, const uint8_t *data, size_t size)
{
    value = ~value;
    for (size_t i = 0; i < size; i++) {
        value ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            value = value >> 1 ^ (value & 1 ? 0xEDB88320u : 0);
    }
    return ~value;
}

static void test_crc32(void)
{
    uint8_t data[1100];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * i >> 3);
    CHECK(kf_crc32(0, "123456789", 9) == 0xCBF43926u);
    CHECK(kf_crc32(7, NULL, 0) == 7);
    for (size_t size = 0; size <= sizeof data; size++) {
        uint8_t *copy = exact_copy(data, size);
        CHECK(kf_crc32((uint32_t)size, copy, size) == crc32_bit_by_bit((uint32_t)size, data, size));
        free(copy);
    }
}

static void test_length_scan_in_small_batches(void)
{
    static const uint8_t data[] = {1, 'a', 0, 2, 'b', 'c', 3, 'd', 'e'};
    kf_length layout;
    kf_slice slices[2];
    kf_fault fault;
    size_t position = 0;

    kf_length_init(&layout, 0, 1, false, false, 0, 1, 100);
    CHECK(kf_length_scan(&layout, data, sizeof data, &position, slices, 2, &fault) == 2);
    CHECK(fault.status == KF_FULL && position == 3);
    CHECK(slices[0].offset == 1 && slices[0].size == 1 && slices[1].offset == 3 && slices[1].size == 0);
    CHECK(kf_length_scan(&layout, data, sizeof data, &position, slices, 2, &fault) == 1);
    CHECK(fault.status == KF_MORE && position == 6);
    CHECK(kf_length_scan(&layout, data, sizeof data, &position, slices, 0, &fault) == 0);
    CHECK(fault.status == KF_MORE && position == 6);
}

static void test_length_limits(void)
{
    static const uint8_t ones[8] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    kf_length layout;
    kf_fault fault;
    uint64_t frame_bytes;

    kf_length_init(&layout, 0, 8, false, false, (int64_t)1 << 31, 8, (uint64_t)1 << 40);
    CHECK(kf_length_open(&layout, ones, &frame_bytes, &fault) == KF_TOO_LARGE && fault.found == UINT64_MAX);
    kf_length_init(&layout, 0, 8, true, true, 0, 8, (uint64_t)1 << 40);
    CHECK(kf_length_open(&layout, ones, &frame_bytes, &fault) == KF_NEGATIVE_LENGTH && fault.found == UINT64_MAX);
    kf_length_init(&layout, 0, 1, false, true, -((int64_t)1 << 31), 1, 100);
    CHECK(kf_length_open(&layout, ones, &frame_bytes, &fault) == KF_NEGATIVE_LENGTH);
    kf_length_init(&layout, 0, 1, false, false, 200, 1, 100); /* nothing is small enough */
    CHECK(kf_length_open(&layout, ones, &frame_bytes, &fault) == KF_TOO_LARGE && fault.expected == 100);
    kf_length_init(&layout, 0, 1, false, false, 0, 1, 255);
    CHECK(kf_length_open(&layout, ones, &frame_bytes, &fault) == KF_OK && frame_bytes == 256);
}

static void test_length_pack(void)
{
    static const uint32_t widths[] = {1, 2, 4, 8};
    kf_length layout;
    kf_fault fault;
    uint8_t field[8];
    uint64_t frame_bytes;

    for (size_t i = 0; i < 4; i++) {
        for (int variant = 0; variant < 4; variant++) {
            bool is_signed = variant & 1, is_little = variant & 2;
            uint32_t bits = 8 * widths[i] - is_signed;
            uint64_t greatest = bits > 40 ? (uint64_t)1 << 40 : ((uint64_t)1 << bits) - 1;
            kf_length_init(&layout, 0, widths[i], is_little, is_signed, 0, 0, (uint64_t)1 << 40);
            CHECK(kf_length_pack(&layout, greatest, field));
            CHECK(kf_length_open(&layout, field, &frame_bytes, &fault) == KF_OK);
            CHECK(frame_bytes == greatest + widths[i]);
            CHECK(bits > 40 || !kf_length_pack(&layout, greatest + 1, field));
        }
    }
    kf_length_init(&layout, 0, 4, false, false, 10, 0, 100);
    CHECK(!kf_length_pack(&layout, 9, field));
    CHECK(kf_length_pack(&layout, 10, field) && memcmp(field, "\0\0\0", 4) == 0);
}

static void test_knl_scan_reads_no_further_than_its_data(void)
{
    kf_frame frame = {.size = 3, .channel = 7, .flags = KF_KNL_CHECKSUM, .type = 9}, found[4];
    uint8_t wire[3 * (KF_KNL_HEADER_BYTES + 3)];
    kf_fault fault;

    for (size_t i = 0; i < 3; i++) {
        uint8_t *at = wire + i * (KF_KNL_HEADER_BYTES + 3);
        memcpy(at + KF_KNL_HEADER_BYTES, "abc", 3);
        kf_knl_pack(&frame, (const uint8_t *)"abc", at);
    }
    for (size_t size = 0; size <= sizeof wire; size++) {
        uint8_t *copy = exact_copy(wire, size);
        size_t position = 0;
        size_t count = kf_knl_scan(100, copy, size, &position, found, 4, &fault);
        CHECK(count == size / (KF_KNL_HEADER_BYTES + 3) && fault.status == KF_MORE);
        CHECK(count == 0 || (found[0].channel == 7 && found[0].type == 9 && found[0].size == 3));
        free(copy);
    }
}

static void test_knl_scan_of_zeros_is_a_wrong_version(void)
{
    static const uint8_t zeros[64];
    kf_frame found[4];
    kf_fault fault;
    size_t position = 0;

    CHECK(kf_knl_scan(100, zeros, sizeof zeros, &position, found, 4, &fault) == 0);
    CHECK(fault.status == KF_BAD_VERSION && position == 0);
}

static void test_place_at_every_split_and_strip(void)
{
    static const uint8_t frame[] = "0123456789";
    const uint64_t frame_bytes = 10;

    for (uint64_t strip = 0; strip <= frame_bytes; strip++) {
        for (size_t split = 0; split <= frame_bytes; split++) {
            uint8_t *message = exact_copy(frame, (size_t)(frame_bytes - strip));
            uint64_t arrived = 0;
            memset(message, '?', (size_t)(frame_bytes - strip));
            CHECK(kf_place(message, frame_bytes, strip, &arrived, frame, split) == split);
            CHECK(kf_place(message, frame_bytes, strip, &arrived, frame + split, 11 - split) == 10 - split);
            CHECK(arrived == frame_bytes);
            CHECK(memcmp(message, frame + strip, (size_t)(frame_bytes - strip)) == 0);
            free(message);
        }
    }
}

static void test_fragments_of_every_small_message(void)
{
    for (uint32_t size = 0; size < 30; size++) {
        for (uint16_t count = 0; count < 33; count++) {
            uint32_t total = 0;
            for (uint16_t index = 0; index < count; index++) {
                for (uint32_t bytes = 0; bytes <= size + 1; bytes++) {
                    if (kf_fragment_fits(index, count, size, bytes))
                        total += bytes;
                }
            }
            CHECK(total == (kf_fragment_count_fits(count, size) ? size : 0));
        }
    }
    CHECK(kf_fragment_bytes(UINT16_MAX, UINT32_MAX) == 65537);
    CHECK(kf_fragment_fits(UINT16_MAX - 1, UINT16_MAX, UINT32_MAX, 65537));
    CHECK(!kf_fragment_fits(UINT16_MAX, UINT16_MAX, UINT32_MAX, 65537));
}

static void test_reassembly(void)
{
    uint8_t *message = exact_copy((const uint8_t *)"?????", 5), seen[2] = {0};
    kf_reassembly reassembly = {message, seen, 5, 2, 2};

    CHECK(kf_reassembly_place(&reassembly, 1, (const uint8_t *)"lo", 2) == KF_OK && reassembly.missing == 1);
    CHECK(kf_reassembly_place(&reassembly, 1, (const uint8_t *)"LO", 2) == KF_MORE && reassembly.missing == 1);
    CHECK(kf_reassembly_place(&reassembly, 2, (const uint8_t *)"lo", 2) == KF_BAD_FRAGMENT);
    CHECK(kf_reassembly_place(&reassembly, 0, (const uint8_t *)"he", 2) == KF_BAD_FRAGMENT);
    CHECK(kf_reassembly_place(&reassembly, 0, (const uint8_t *)"hel", 3) == KF_OK && reassembly.missing == 0);
    CHECK(memcmp(message, "hello", 5) == 0);
    free(message);
}

int main(void)
{
    test_crc32();
    test_length_scan_in_small_batches();
    test_length_limits();
    test_length_pack();
    test_knl_scan_reads_no_further_than_its_data();
    test_knl_scan_of_zeros_is_a_wrong_version();
    test_place_at_every_split_and_strip();
    test_fragments_of_every_small_message();
    test_reassembly();
    printf("%d failures\n", failures);
    return failures != 0;
}
