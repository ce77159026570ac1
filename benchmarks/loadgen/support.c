/* Clock, errors, sockets, histogram and pattern: what every part of the load generator uses. */
#define _GNU_SOURCE
#include "loadgen.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

uint64_t clock_nanoseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

double cpu_seconds_used(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

_Noreturn void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

void *must_allocate(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (memory == NULL) die("out of memory for %zu x %zu bytes", count, size);
    return memory;
}

void put_be16(uint8_t *out, uint16_t value) {
    out[0] = (uint8_t)(value >> 8);
    out[1] = (uint8_t)value;
}

void put_be32(uint8_t *out, uint32_t value) {
    put_be16(out, (uint16_t)(value >> 16));
    put_be16(out + 2, (uint16_t)value);
}

void put_be64(uint8_t *out, uint64_t value) {
    put_be32(out, (uint32_t)(value >> 32));
    put_be32(out + 4, (uint32_t)value);
}

uint32_t get_be32(const uint8_t *in) {
    return (uint32_t)in[0] << 24 | (uint32_t)in[1] << 16 | (uint32_t)in[2] << 8 | (uint32_t)in[3];
}

/* ---- sockets ---- */

static int connect_unix(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) die("the socket path is too long: %s", path);
    memcpy(address.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) die("no socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect to %s: %s", path, strerror(errno));
    return fd;
}

static int connect_inet(const char *address_text, int type) {
    char host[64];
    const char *colon = strrchr(address_text, ':');
    if (colon == NULL || (size_t)(colon - address_text) >= sizeof host) die("no host:port in '%s'", address_text);
    memcpy(host, address_text, (size_t)(colon - address_text));
    host[colon - address_text] = 0;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1))};
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) die("'%s' is no IPv4 address", host);
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (fd < 0) die("no socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        die("connect to %s: %s", address_text, strerror(errno));
    int one = 1;
    if (type == SOCK_STREAM) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

int connect_endpoint(const char *endpoint, bool datagram) {
    int type = datagram ? SOCK_DGRAM : SOCK_STREAM;
    if (strncmp(endpoint, "unix:", 5) == 0) return connect_unix(endpoint + 5);
    if (strncmp(endpoint, "tcp://", 6) == 0 || strncmp(endpoint, "udp://", 6) == 0)
        return connect_inet(endpoint + 6, type);
    die("unknown endpoint '%s': use tcp://HOST:PORT, unix:PATH or udp://HOST:PORT", endpoint);
}

void must_send(int fd, const void *data, size_t size) {
    const uint8_t *next = data;
    while (size > 0) {
        ssize_t n = send(fd, next, size, MSG_NOSIGNAL);
        if (n < 0) die("handshake: send: %s", strerror(errno));
        next += n;
        size -= (size_t)n;
    }
}

void must_receive(int fd, void *data, size_t size) {
    uint8_t *next = data;
    while (size > 0) {
        ssize_t n = recv(fd, next, size, 0);
        if (n < 0) die("handshake: receive: %s", strerror(errno));
        if (n == 0) die("handshake: the server closed the connection");
        next += n;
        size -= (size_t)n;
    }
}

/* ---- histogram ---- */

static size_t bucket_of(uint64_t value) {
    if (value < 1u << HISTOGRAM_SUB_BITS) return (size_t)value;
    int shift = 63 - __builtin_clzll(value) - HISTOGRAM_SUB_BITS;
    size_t bucket = ((size_t)shift << HISTOGRAM_SUB_BITS) + (size_t)(value >> shift);
    return bucket < HISTOGRAM_BUCKETS ? bucket : HISTOGRAM_BUCKETS - 1;
}

static uint64_t bucket_middle(size_t bucket) {
    if (bucket < 2u << HISTOGRAM_SUB_BITS) return bucket;
    size_t shift = (bucket >> HISTOGRAM_SUB_BITS) - 1;
    uint64_t low = (uint64_t)(bucket - (shift << HISTOGRAM_SUB_BITS)) << shift;
    return low + (1ull << shift) / 2;
}

void histogram_reset(struct histogram *histogram) {
    memset(histogram, 0, sizeof *histogram);
    histogram->min = UINT64_MAX;
}

void histogram_record(struct histogram *histogram, uint64_t value) {
    histogram->counts[bucket_of(value)]++;
    histogram->total++;
    histogram->sum += value;
    if (value < histogram->min) histogram->min = value;
    if (value > histogram->max) histogram->max = value;
}

uint64_t histogram_quantile(const struct histogram *histogram, double quantile) {
    if (histogram->total == 0) return 0;
    uint64_t rank = (uint64_t)(quantile * (double)(histogram->total - 1)), seen = 0;
    for (size_t bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) {
        seen += histogram->counts[bucket];
        if (seen <= rank) continue;
        uint64_t middle = bucket_middle(bucket);
        if (middle < histogram->min) return histogram->min;
        return middle < histogram->max ? middle : histogram->max;
    }
    return histogram->max;
}

/* ---- pattern ---- */

static size_t pattern_messages(size_t message_bytes) {
    enum { PATTERN_BYTES = 512 * 1024, MESSAGES_MIN = 2, MESSAGES_MAX = 4096 };
    size_t messages = PATTERN_BYTES / message_bytes;
    if (messages < MESSAGES_MIN) return MESSAGES_MIN;
    return messages < MESSAGES_MAX ? messages : MESSAGES_MAX;
}

void pattern_make(struct pattern *pattern, uint32_t payload_bytes, header_writer write_header) {
    uint8_t header[HEADER_BYTES_MAX];
    size_t header_bytes = write_header == NULL ? 0 : write_header(header, payload_bytes);
    assert(header_bytes <= sizeof header);
    pattern->message_bytes = header_bytes + payload_bytes;
    pattern->messages = pattern_messages(payload_bytes == 0 ? 1 : payload_bytes); /* the same number with any header */
    pattern->bytes = must_allocate(pattern->messages, pattern->message_bytes);
    uint64_t state = 0x9e3779b97f4a7c15u;
    uint8_t *out = pattern->bytes;
    for (size_t message = 0; message < pattern->messages; message++) {
        memcpy(out, header, header_bytes);
        out += header_bytes;
        for (uint32_t i = 0; i < payload_bytes; i++) { /* xorshift64; printable, so that line framings can carry it */
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            *out++ = (uint8_t)('0' + (state >> 32) % 64);
        }
    }
}
