/*
 * UDP: bare datagrams, each with its number in front; sent and received in batches (sendmmsg, recvmmsg).
 *
 * A datagram that does not come back within LOSS_NANOSECONDS of silence counts as lost, with all that were under way on
 * its socket; the window opens anew, and what still arrives of the old numbers is ignored.
 */
#define _GNU_SOURCE
#include "loadgen.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { BATCH_MAX = 64, NUMBER_BYTES = 8, DATAGRAM_BYTES_MAX = 65507 };
static const uint64_t LOSS_NANOSECONDS = 50000000;

struct flow {
    int fd;
    uint64_t next;      /* number of the next datagram */
    uint64_t base;      /* numbers below were given up */
    uint32_t under_way;
    uint64_t heard_at;
    uint64_t *sent_at;  /* ring, four windows wide: numbers under way differ by less, unless something is lost */
    uint8_t *received;  /* ring, likewise: each number counts once */
    uint32_t ring;
};

struct batch {
    struct mmsghdr headers[BATCH_MAX];
    struct iovec iovecs[BATCH_MAX][2];
    uint8_t numbers[BATCH_MAX][NUMBER_BYTES];
    uint8_t *storage;
};

static void batch_prepare(struct batch *sending, struct batch *receiving, uint8_t *payload, size_t size) {
    receiving->storage = must_allocate(BATCH_MAX, DATAGRAM_BYTES_MAX);
    for (int i = 0; i < BATCH_MAX; i++) {
        sending->iovecs[i][0] = (struct iovec){sending->numbers[i], NUMBER_BYTES};
        sending->iovecs[i][1] = (struct iovec){payload, size - NUMBER_BYTES};
        sending->headers[i].msg_hdr = (struct msghdr){.msg_iov = sending->iovecs[i], .msg_iovlen = 2};
        receiving->iovecs[i][0] = (struct iovec){receiving->storage + (size_t)i * DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MAX};
        receiving->headers[i].msg_hdr = (struct msghdr){.msg_iov = receiving->iovecs[i], .msg_iovlen = 1};
    }
}

static void flow_send(struct run *run, struct flow *flow, struct batch *batch) {
    while (!run->draining && flow->under_way < run->options->in_flight) {
        unsigned count = run->options->in_flight - flow->under_way;
        if (count > BATCH_MAX) count = BATCH_MAX;
        for (unsigned i = 0; i < count; i++) put_be64(batch->numbers[i], flow->next + i);
        int sent = sendmmsg(flow->fd, batch->headers, count, 0);
        if (sent < 0 && errno == EAGAIN) return; /* the socket is full: what returns makes room */
        if (sent < 0) die("sendmmsg: %s", strerror(errno));
        for (int i = 0; i < sent; i++, flow->next++) {
            flow->sent_at[flow->next % flow->ring] = run->now;
            flow->received[flow->next % flow->ring] = 0;
        }
        flow->under_way += (unsigned)sent;
    }
}

static void flow_one(struct run *run, struct flow *flow, const uint8_t *data, size_t size, const uint8_t *payload) {
    if (size != run->options->payload_bytes) die("a datagram of %zu bytes came back", size);
    uint64_t number = (uint64_t)get_be32(data) << 32 | get_be32(data + 4);
    if (number >= flow->next || memcmp(data + NUMBER_BYTES, payload, size - NUMBER_BYTES) != 0)
        die("what came back is not what was sent");
    if (number < flow->base || flow->next - number > flow->ring || flow->received[number % flow->ring]) return;
    flow->received[number % flow->ring] = 1;
    flow->under_way--;
    run->messages++;
    run->all_messages++;
    histogram_record(&run->latency, run->now - flow->sent_at[number % flow->ring]);
}

static void flow_receive(struct run *run, struct flow *flow, struct batch *batch, const uint8_t *payload) {
    int count = recvmmsg(flow->fd, batch->headers, BATCH_MAX, MSG_DONTWAIT, NULL);
    if (count < 0 && errno == EAGAIN) return;
    if (count < 0) die("recvmmsg: %s", strerror(errno));
    flow->heard_at = run->now = clock_nanoseconds();
    for (int i = 0; i < count; i++)
        flow_one(run, flow, batch->iovecs[i][0].iov_base, batch->headers[i].msg_len, payload);
}

static void flow_give_up(struct run *run, struct flow *flow) {
    if (flow->under_way == 0 || run->now - flow->heard_at < LOSS_NANOSECONDS) return;
    run->lost += flow->under_way;
    flow->under_way = 0;
    flow->base = flow->next;
    flow->heard_at = run->now;
}

static void flow_open(struct run *run, struct flow *flow, int epoll) {
    int bytes = 4 * 1024 * 1024;
    flow->fd = connect_endpoint(run->options->endpoint, true);
    setsockopt(flow->fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    fcntl(flow->fd, F_SETFL, fcntl(flow->fd, F_GETFL) | O_NONBLOCK);
    flow->ring = run->options->in_flight * 4;
    flow->sent_at = must_allocate(flow->ring, sizeof *flow->sent_at);
    flow->received = must_allocate(flow->ring, 1);
    flow->heard_at = clock_nanoseconds();
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = flow};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, flow->fd, &event) < 0) die("epoll: %s", strerror(errno));
}

static struct batch sending, receiving;

static void turn(struct run *run, int epoll, struct flow *flows, const uint8_t *payload) {
    struct epoll_event events[BATCH_MAX];
    int ready = epoll_wait(epoll, events, BATCH_MAX, 20);
    if (ready < 0 && errno != EINTR) die("epoll: %s", strerror(errno));
    for (int i = 0; i < ready; i++) flow_receive(run, events[i].data.ptr, &receiving, payload);
    run->now = clock_nanoseconds();
    for (uint32_t i = 0; i < run->options->connections; i++) {
        flow_give_up(run, &flows[i]);
        flow_send(run, &flows[i], &sending);
    }
}

static void turn_for(struct run *run, int epoll, struct flow *flows, const uint8_t *payload, double seconds) {
    run->now = clock_nanoseconds();
    uint64_t end = run->now + (uint64_t)(seconds * 1e9);
    while (run->now < end) turn(run, epoll, flows, payload);
}

static void drain(struct run *run, int epoll, struct flow *flows, const uint8_t *payload) {
    run->draining = true;
    for (uint32_t i = 0; i < run->options->connections; i++)
        while (flows[i].under_way > 0) turn(run, epoll, flows, payload);
}

void run_datagrams(struct run *run) {
    const struct options *options = run->options;
    if (options->payload_bytes < NUMBER_BYTES || options->payload_bytes > DATAGRAM_BYTES_MAX)
        die("a datagram has %d to %d bytes here", NUMBER_BYTES, DATAGRAM_BYTES_MAX);
    pattern_make(&run->send, options->payload_bytes, NULL);
    batch_prepare(&sending, &receiving, run->send.bytes, options->payload_bytes);
    struct flow *flows = must_allocate(options->connections, sizeof *flows);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    for (uint32_t i = 0; i < options->connections; i++) flow_open(run, &flows[i], epoll);
    run->now = clock_nanoseconds();
    for (uint32_t i = 0; i < options->connections; i++) flow_send(run, &flows[i], &sending);
    turn_for(run, epoll, flows, run->send.bytes, options->warmup_seconds);
    histogram_reset(&run->latency);
    run->messages = run->lost = 0;
    uint64_t start = run->now;
    double cpu_start = cpu_seconds_used();
    turn_for(run, epoll, flows, run->send.bytes, options->seconds);
    run->elapsed_seconds = (double)(run->now - start) * 1e-9;
    run->cpu_seconds = cpu_seconds_used() - cpu_start;
    uint64_t messages = run->messages;
    struct histogram latency = run->latency;
    drain(run, epoll, flows, run->send.bytes);
    run->messages = messages;
    run->latency = latency;
}
