/*
 * An echo load generator: closed loop, one thread, epoll.
 *
 * Strategy: every connection has channels (one, unless the protocol multiplexes); every channel keeps `in_flight` messages
 * on their way. What a read completes is sent anew in one write. Messages are cut from a pattern that repeats after
 * `pattern_messages`, each message of it different, so what comes back is verified by comparing memory: a lost,
 * doubled, reordered or changed message does not match.
 *
 * Invariants: a connection's output queue is filled only when it is empty, so a frame is never torn by a control
 * frame; a channel's messages return in the order in which they were sent.
 */
#ifndef LOADGEN_H
#define LOADGEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum { OUT_IOVECS_MAX = 512, OUT_ARENA_BYTES = 256 * 1024, RECEIVE_BYTES = 256 * 1024, HEADER_BYTES_MAX = 32 };
enum { KNL_HEADER_BYTES = 16 };
enum { CONTROL_FRAME_BYTES_MAX = 512, CONTROL_QUEUE_BYTES_MAX = 4096 };

struct options {
    const char *endpoint; /* tcp://127.0.0.1:PORT, unix:PATH, udp://127.0.0.1:PORT */
    const char *framing;
    uint32_t payload_bytes;
    uint32_t in_flight; /* messages on their way, per channel */
    uint32_t connections;
    uint32_t channels; /* per connection */
    double warmup_seconds;
    double seconds;
    bool linger; /* after the report, hold the connections open and silent until standard input ends */
    int cpu;     /* -1: not pinned */
};

/* ---- latency: a log-linear histogram, 64 buckets to a power of two (an error of 1.6 % at most) ---- */

enum { HISTOGRAM_SUB_BITS = 6, HISTOGRAM_BUCKETS = (48 - HISTOGRAM_SUB_BITS) << HISTOGRAM_SUB_BITS };

struct histogram {
    uint64_t counts[HISTOGRAM_BUCKETS];
    uint64_t total;
    uint64_t sum;
    uint64_t min;
    uint64_t max;
};

void histogram_reset(struct histogram *histogram);
void histogram_record(struct histogram *histogram, uint64_t value);
uint64_t histogram_quantile(const struct histogram *histogram, double quantile);

/* ---- the pattern: what is sent, and what must come back ---- */

struct pattern {
    uint8_t *bytes;
    size_t message_bytes; /* with whatever headers belong to it */
    size_t messages;
};

/* Where the headers of a pattern's messages come from: writes the header of a payload, returns its length. */
typedef size_t (*header_writer)(uint8_t *out, uint32_t payload_bytes);

void pattern_make(struct pattern *pattern, uint32_t payload_bytes, header_writer write_header);

/* ---- connections ---- */

struct channel {
    uint64_t sent;         /* whole messages handed to the output queue */
    uint64_t done;         /* whole messages that came back */
    size_t receive_offset; /* place in the pattern */
    int64_t credit_bytes;  /* what the peer lets us send */
    size_t send_offset;    /* gRPC: place in the pattern; KNL: place in the message */
    /* gRPC: of the messages counted in `sent`, what is not in the output queue yet. */
    size_t send_left_bytes;
    /* KNL: */
    const uint8_t *sending;           /* the message */
    uint8_t header[KNL_HEADER_BYTES]; /* of a whole message */
    size_t unacknowledged_bytes;      /* received, and not given back to the peer as credit */
    uint64_t *sent_at;     /* ring of `in_flight` times, nanoseconds */
    uint32_t id;
};

struct connection {
    int fd;
    bool wants_write;
    struct iovec iovecs[OUT_IOVECS_MAX];
    int iovec_first;
    int iovec_count;
    uint8_t *arena; /* bytes that the queue refers to and that are not in a pattern */
    size_t arena_used;
    uint32_t channel_next; /* whose turn it is */
    struct channel *channels;
    int64_t credit_bytes;
    uint8_t partial[CONTROL_FRAME_BYTES_MAX]; /* a header that is not whole yet, or a control frame */
    size_t partial_used;
    size_t payload_left; /* of the frame being received */
    size_t payload_skip; /* of it, what is no part of the message */
    struct channel *payload_channel;
    size_t frame_bytes_max; /* what the peer takes */
    uint8_t control[CONTROL_QUEUE_BYTES_MAX]; /* control frames due, sent before the next message */
    size_t control_used;
    int64_t unacknowledged_bytes; /* received, and not given back to the peer as credit */
};

struct run {
    const struct options *options;
    const struct protocol *protocol;
    struct pattern send;
    struct pattern receive;
    struct histogram latency;
    uint64_t messages;     /* in the measured time */
    uint64_t all_messages; /* with warm-up and end */
    uint64_t lost;
    uint64_t now; /* nanoseconds, read once per event */
    bool verify_all;
    bool draining;
    double elapsed_seconds;
    double cpu_seconds;
};

/* A protocol knows how a connection begins, what may be sent now, and what received bytes mean. */
struct protocol {
    const char *name;
    header_writer send_header;
    header_writer receive_header;
    bool channels;                                             /* can multiplex */
    void (*handshake)(struct run *run, struct connection *c);  /* blocking; dies with a message when refused */
    void (*fill)(struct run *run, struct connection *c);       /* queue control frames and messages that are due */
    void (*received)(struct run *run, struct connection *c, const uint8_t *data, size_t size);
};

extern const struct protocol protocols_plain[];
extern const size_t protocols_plain_count;
extern const struct protocol protocol_knl;
extern const struct protocol protocol_grpc;

void run_streams(struct run *run);
void run_datagrams(struct run *run);

/* What protocols build upon. */
void channel_received(struct run *run, struct channel *channel, const uint8_t *data, size_t size);
uint32_t channel_room(const struct run *run, const struct channel *channel);
void channel_sending(struct run *run, struct channel *channel, uint64_t messages);
void queue_reference(struct connection *c, const uint8_t *data, size_t size);
void queue_copy(struct connection *c, const uint8_t *data, size_t size);
bool queue_has_room(const struct connection *c, size_t copied_bytes);

/* ---- small things ---- */

uint64_t clock_nanoseconds(void);
double cpu_seconds_used(void);
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
void *must_allocate(size_t count, size_t size);
int connect_endpoint(const char *endpoint, bool datagram);
void must_send(int fd, const void *data, size_t size);
void must_receive(int fd, void *data, size_t size);
void put_be16(uint8_t *out, uint16_t value);
void put_be32(uint8_t *out, uint32_t value);
void put_be64(uint8_t *out, uint64_t value);
uint32_t get_be32(const uint8_t *in);

#endif
