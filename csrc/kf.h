/* kf: framing without I/O, without a heap, without globals.
 *
 * Scans a chunk of received bytes for whole frames and describes them as slices of the chunk; packs headers;
 * computes CRC-32; places the parts of a large frame, or the fragments of a datagram message, into a buffer.
 * Two layouts of streams: frames that carry their length somewhere in a header (kf_length), and KNL/1 (kf_knl).
 *
 * Rules that hold for every function here:
 *   - The caller owns all memory. Nothing is allocated, nothing is kept but in the structures that are passed.
 *   - No byte outside [data, data + size) is read. `data` may be null where `size` is 0. Nothing needs alignment.
 *   - Whatever bytes arrive, the answer is a kf_status. What the caller gets wrong is asserted.
 *   - Every field of a header is read once: the bytes may change under a scan, and still bound nothing twice.
 *   - Functions may be called from any thread, as long as no two use the same structure at the same time.
 */
#ifndef KF_H
#define KF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KF_LENGTH_HEADER_BYTES_MAX 64 /* offset + width of a length layout */
#define KF_KNL_HEADER_BYTES 16
#define KF_PACKET_HEADER_BYTES 24
#define KF_KNL_VERSION 1
#define KF_KNL_CHECKSUM 4 /* the flag of KNL/1 that extends a frame's checksum over its payload */
#define KF_PACKET_MAGIC 0x4B55
#define KF_PACKET_VERSION 1

/* What a scan ended with. The first three are no errors. */
typedef enum kf_status {
    KF_OK,              /* a header, or a packet, is valid */
    KF_MORE,            /* what is left is less than a frame */
    KF_FULL,            /* the caller's array is full: scan again from the same position */
    KF_NEGATIVE_LENGTH, /* found: the length */
    KF_SHORT_LENGTH,    /* found: the length; expected: the least that the layout allows */
    KF_TOO_LARGE,       /* found: the length field; expected: frame_bytes_max */
    KF_BAD_VERSION,     /* found, expected: versions */
    KF_BAD_CHECKSUM,    /* found: what the frame says; expected: what its bytes have */
    KF_BAD_MAGIC,       /* found, expected: the first two bytes */
    KF_BAD_FRAGMENT,    /* the fields of a packet contradict each other or its size */
    KF_TRUNCATED        /* found: the size of a packet; expected: that of its header */
} kf_status;

/* Why bytes are corrupt: the status, and the numbers that its comment names. */
typedef struct kf_fault {
    kf_status status;
    uint64_t found;
    uint64_t expected;
} kf_fault;

/* CRC-32 as zlib and IEEE 802.3 define it. Continues `value` (0 at first) over `size` bytes. */
uint32_t kf_crc32(uint32_t value, const void *data, size_t size);

/* --- Frames that carry their length ------------------------------------------------------------------------
 *
 * A frame: `offset` bytes, a length field of `width` bytes, and a body of (field + adjust) bytes. Its message is
 * the frame less its first `strip` bytes.
 */
typedef struct kf_length {
    uint32_t offset; /* at most KF_LENGTH_HEADER_BYTES_MAX - width */
    uint32_t width;  /* 1, 2, 4 or 8 */
    bool is_little;  /* byte order of the field */
    bool is_signed;
    int64_t adjust;           /* -2^31 to 2^31 */
    uint64_t strip;           /* at most 2^41 */
    uint64_t frame_bytes_max; /* of the body; at most 2^40 */
    uint64_t length_min;      /* the values of the field that the layout and the limit allow: */
    uint64_t length_count;    /* length_min, and the length_count - 1 that follow */
} kf_length;

/* A message, as a slice of the scanned data. */
typedef struct kf_slice {
    size_t offset;
    size_t size;
} kf_slice;

/* Fills in a layout. */
void kf_length_init(kf_length *layout, uint32_t offset, uint32_t width, bool is_little, bool is_signed, int64_t adjust,
                    uint64_t strip, uint64_t frame_bytes_max);

/* Describes whole frames from data[*position] on, at most `slices_max`; returns how many, and moves *position to
 * where the first frame starts that isn't described. fault->status says why it isn't: KF_MORE, KF_FULL or an error. */
size_t kf_length_scan(const kf_length *layout, const uint8_t *data, size_t size, size_t *position, kf_slice *slices,
                      size_t slices_max, kf_fault *fault);

/* Checks a whole header (offset + width bytes). KF_OK: *frame_bytes is the size of the frame, header included. */
kf_status kf_length_open(const kf_length *layout, const uint8_t *header, uint64_t *frame_bytes, kf_fault *fault);

/* Writes the length field, `width` bytes, for a body of `body_bytes`. False: no field of this layout can say it. */
bool kf_length_pack(const kf_length *layout, uint64_t body_bytes, uint8_t *field);

/* --- KNL/1 ------------------------------------------------------------------------------------------------- */

typedef struct kf_frame {
    size_t offset; /* of the payload, in the scanned data */
    uint32_t size; /* of the payload */
    uint32_t channel;
    uint16_t flags;
    uint8_t type;
} kf_frame;

/* As kf_length_scan. `frame_bytes_max` limits the payload. Checksums are verified. */
size_t kf_knl_scan(uint32_t frame_bytes_max, const uint8_t *data, size_t size, size_t *position, kf_frame *frames,
                   size_t frames_max, kf_fault *fault);

/* Checks a whole header. A checksum that covers the payload is not looked at: kf_knl_verify is for that. */
kf_status kf_knl_open(uint32_t frame_bytes_max, const uint8_t *header, kf_frame *frame, kf_fault *fault);

/* Checks the checksum of a header and the payload that it covers. */
kf_status kf_knl_verify(const uint8_t *header, const uint8_t *payload, size_t size, kf_fault *fault);

/* Writes a header, KF_KNL_HEADER_BYTES; the payload, frame->size bytes, is read only if the checksum covers it. */
void kf_knl_pack(const kf_frame *frame, const uint8_t *payload, uint8_t *header);

/* --- Large frames: each byte goes to its place when it arrives ---------------------------------------------- */

/* Copies the next bytes of a frame of `frame_bytes`, of which *arrived have come before, to their place in
 * `message`, a buffer of frame_bytes - strip bytes. Returns how many of `size` belong to the frame. */
size_t kf_place(uint8_t *message, uint64_t frame_bytes, uint64_t strip, uint64_t *arrived, const uint8_t *data,
                size_t size);

/* --- Datagrams --------------------------------------------------------------------------------------------- */

/* A packet's header. All fragments of a message but the last have kf_fragment_bytes bytes, so that the index alone
 * says where one belongs. */
typedef struct kf_packet {
    uint64_t connection;
    uint32_t sequence;
    uint32_t message_bytes;
    uint16_t index;
    uint16_t count;
    uint8_t kind;
} kf_packet;

/* A message in the making. `seen` (`count` bytes, zeroed) and `message` (`message_bytes` bytes) are the caller's. */
typedef struct kf_reassembly {
    uint8_t *message;
    uint8_t *seen;
    uint32_t message_bytes;
    uint16_t count;
    uint16_t missing; /* fragments that haven't come */
} kf_reassembly;

/* Checks a packet. KF_OK: its fragment is the rest of `data` after the header. */
kf_status kf_packet_parse(const uint8_t *data, size_t size, kf_packet *packet, kf_fault *fault);

/* Writes a header, KF_PACKET_HEADER_BYTES. */
void kf_packet_pack(const kf_packet *packet, uint8_t *header);

/* Whether a message can come so: no fragment is empty, but the only one of an empty message. */
bool kf_fragment_count_fits(uint16_t count, uint32_t message_bytes);

/* Size of each fragment but the last; `count` is not 0. */
uint32_t kf_fragment_bytes(uint16_t count, uint32_t message_bytes);

/* Whether fragment `index` of `count` has `size` bytes. */
bool kf_fragment_fits(uint16_t index, uint16_t count, uint32_t message_bytes, size_t size);

/* Puts a fragment into its place. KF_OK: taken, and counted off `missing`; KF_MORE: it was there already, nothing
 * was done; KF_BAD_FRAGMENT: it has the wrong size, nothing was done. */
kf_status kf_reassembly_place(kf_reassembly *reassembly, uint16_t index, const uint8_t *data, size_t size);

#endif
