/* The stream engine: connections, the output queue, verification, and the loop that drives them. */
#define _GNU_SOURCE
#include "loadgen.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>

enum { EVENTS_MAX = 256, VERIFY_WHOLE_BYTES_MAX = 4096, VERIFY_BLOCK_BYTES = 4096 };
static const uint64_t STALL_NANOSECONDS_MAX = 5000000000u;

static uint8_t receive_buffer[RECEIVE_BYTES];

/* ---- what came back ---- */

static void verify(const struct run *run, size_t offset, const uint8_t *data, size_t size) {
    if (memcmp(run->receive.bytes + offset, data, size) != 0)
        die("what came back is not what was sent (near byte %zu of the pattern)", offset);
}

/*
 * Compares a piece of the stream, no longer than the way to the pattern's end. Small messages are compared whole; of
 * large ones, after the warm-up, both ends and one block that wanders, so that the client does not become the bottleneck.
 */
static void verify_piece(const struct run *run, size_t offset, const uint8_t *data, size_t size, uint64_t turn) {
    if (run->verify_all || run->receive.message_bytes <= VERIFY_WHOLE_BYTES_MAX || size <= 3 * VERIFY_BLOCK_BYTES) {
        verify(run, offset, data, size);
        return;
    }
    size_t blocks = size / VERIFY_BLOCK_BYTES, middle = (size_t)(turn % blocks) * VERIFY_BLOCK_BYTES;
    verify(run, offset, data, 64);
    verify(run, offset + middle, data + middle, VERIFY_BLOCK_BYTES);
    verify(run, offset + size - 64, data + size - 64, 64);
}

static void complete(struct run *run, struct channel *channel, size_t messages) {
    uint32_t in_flight = run->options->in_flight;
    assert(channel->sent - channel->done >= messages);
    for (size_t i = 0; i < messages; i++, channel->done++)
        histogram_record(&run->latency, run->now - channel->sent_at[channel->done % in_flight]);
    run->messages += messages;
    run->all_messages += messages;
}

void channel_received(struct run *run, struct channel *channel, const uint8_t *data, size_t size) {
    size_t message_bytes = run->receive.message_bytes, pattern_bytes = message_bytes * run->receive.messages;
    size_t whole = (channel->receive_offset % message_bytes + size) / message_bytes;
    if (channel->done + whole > channel->sent) die("the server sent more than it got");
    while (size > 0) {
        size_t left = pattern_bytes - channel->receive_offset, piece = size < left ? size : left;
        verify_piece(run, channel->receive_offset, data, piece, channel->done);
        channel->receive_offset = piece == left ? 0 : channel->receive_offset + piece;
        data += piece;
        size -= piece;
    }
    complete(run, channel, whole);
}

/* ---- what is sent ---- */

uint32_t channel_room(const struct run *run, const struct channel *channel) {
    return run->draining ? 0 : run->options->in_flight - (uint32_t)(channel->sent - channel->done);
}

void channel_sending(struct run *run, struct channel *channel, uint64_t messages) {
    for (uint64_t i = 0; i < messages; i++, channel->sent++)
        channel->sent_at[channel->sent % run->options->in_flight] = run->now;
}

bool queue_has_room(const struct connection *c, size_t copied_bytes) {
    return c->iovec_count < OUT_IOVECS_MAX - 2 && copied_bytes <= OUT_ARENA_BYTES - c->arena_used;
}

void queue_reference(struct connection *c, const uint8_t *data, size_t size) {
    assert(c->iovec_count < OUT_IOVECS_MAX);
    c->iovecs[c->iovec_count++] = (struct iovec){.iov_base = (void *)(uintptr_t)data, .iov_len = size};
}

void queue_copy(struct connection *c, const uint8_t *data, size_t size) {
    assert(size <= OUT_ARENA_BYTES - c->arena_used);
    if (size == 0) return;
    uint8_t *place = c->arena + c->arena_used;
    memcpy(place, data, size);
    c->arena_used += size;
    struct iovec *last = c->iovec_count > c->iovec_first ? &c->iovecs[c->iovec_count - 1] : NULL;
    if (last != NULL && (uint8_t *)last->iov_base + last->iov_len == place)
        last->iov_len += size;
    else
        queue_reference(c, place, size);
}

static void queue_sent(struct connection *c, size_t size) {
    while (size > 0) {
        struct iovec *first = &c->iovecs[c->iovec_first];
        if (size < first->iov_len) {
            first->iov_base = (uint8_t *)first->iov_base + size;
            first->iov_len -= size;
            return;
        }
        size -= first->iov_len;
        c->iovec_first++;
    }
}

static bool queue_empty(const struct connection *c) { return c->iovec_first == c->iovec_count; }

static bool queue_refill(struct run *run, struct connection *c) {
    c->iovec_first = c->iovec_count = 0;
    c->arena_used = 0;
    run->protocol->fill(run, c);
    return !queue_empty(c);
}

static void want_write(int epoll, struct connection *c, bool wanted) {
    if (c->wants_write == wanted) return;
    c->wants_write = wanted;
    struct epoll_event event = {.events = EPOLLIN | (wanted ? (uint32_t)EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
}

static void send_due(struct run *run, int epoll, struct connection *c) {
    while (!queue_empty(c) || queue_refill(run, c)) {
        struct msghdr message = {.msg_iov = c->iovecs + c->iovec_first,
                                 .msg_iovlen = (size_t)(c->iovec_count - c->iovec_first)};
        ssize_t n = sendmsg(c->fd, &message, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) break;
        if (n < 0) die("send: %s", strerror(errno));
        queue_sent(c, (size_t)n);
    }
    want_write(epoll, c, !queue_empty(c));
}

static bool receive_ready(struct run *run, struct connection *c) {
    ssize_t n = recv(c->fd, receive_buffer, sizeof receive_buffer, 0);
    if (n < 0 && errno == EAGAIN) return false;
    if (n < 0) die("receive: %s", strerror(errno));
    if (n == 0) die("the server closed the connection");
    run->now = clock_nanoseconds();
    run->protocol->received(run, c, receive_buffer, (size_t)n);
    return true;
}

/* ---- the loop ---- */

static void connection_open(struct run *run, struct connection *c, int epoll) {
    const struct options *options = run->options;
    c->fd = connect_endpoint(options->endpoint, false);
    struct timeval patience = {.tv_sec = 10};
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    c->channels = must_allocate(options->channels, sizeof *c->channels);
    c->arena = must_allocate(1, OUT_ARENA_BYTES);
    for (uint32_t i = 0; i < options->channels; i++)
        c->channels[i].sent_at = must_allocate(options->in_flight, sizeof(uint64_t));
    if (run->protocol->handshake != NULL) run->protocol->handshake(run, c);
    fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) | O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event) < 0) die("epoll: %s", strerror(errno));
}

static void turn(struct run *run, int epoll, uint64_t *progress_at) {
    struct epoll_event events[EVENTS_MAX];
    int ready = epoll_wait(epoll, events, EVENTS_MAX, 100);
    if (ready < 0 && errno != EINTR) die("epoll: %s", strerror(errno));
    if (ready <= 0) {
        run->now = clock_nanoseconds();
        if (run->now - *progress_at > STALL_NANOSECONDS_MAX) die("the server has not answered for 5 seconds");
        return;
    }
    for (int i = 0; i < ready; i++) {
        struct connection *c = events[i].data.ptr;
        if ((events[i].events & ~(uint32_t)EPOLLOUT) != 0 && !receive_ready(run, c)) continue;
        send_due(run, epoll, c);
    }
    run->now = clock_nanoseconds();
    *progress_at = run->now;
}

/* At least so long, and until at least one message has come back. */
static void turn_for(struct run *run, int epoll, double seconds) {
    uint64_t progress_at = run->now = clock_nanoseconds();
    uint64_t end = run->now + (uint64_t)(seconds * 1e9);
    run->messages = 0;
    while (run->now < end || run->messages == 0) turn(run, epoll, &progress_at);
}

static uint64_t unanswered(const struct run *run, const struct connection *connections) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < run->options->connections; i++)
        for (uint32_t j = 0; j < run->options->channels; j++)
            sum += connections[i].channels[j].sent - connections[i].channels[j].done;
    return sum;
}

static void drain(struct run *run, int epoll, const struct connection *connections) {
    uint64_t progress_at = clock_nanoseconds();
    run->draining = true;
    while (unanswered(run, connections) > 0) turn(run, epoll, &progress_at);
}

static void measure(struct run *run, int epoll) {
    run->verify_all = true;
    turn_for(run, epoll, run->options->warmup_seconds);
    run->verify_all = false;
    histogram_reset(&run->latency);
    uint64_t start = run->now;
    double cpu_start = cpu_seconds_used();
    turn_for(run, epoll, run->options->seconds);
    run->elapsed_seconds = (double)(run->now - start) * 1e-9;
    run->cpu_seconds = cpu_seconds_used() - cpu_start;
}

void run_streams(struct run *run) {
    const struct options *options = run->options;
    pattern_make(&run->send, options->payload_bytes, run->protocol->send_header);
    pattern_make(&run->receive, options->payload_bytes, run->protocol->receive_header);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct connection *connections = must_allocate(options->connections, sizeof *connections);
    for (uint32_t i = 0; i < options->connections; i++) connection_open(run, &connections[i], epoll);
    if (options->in_flight > 0) {
        run->now = clock_nanoseconds();
        for (uint32_t i = 0; i < options->connections; i++) send_due(run, epoll, &connections[i]);
        measure(run, epoll);
        uint64_t messages = run->messages;
        struct histogram latency = run->latency;
        drain(run, epoll, connections);
        run->messages = messages;
        run->latency = latency;
    }
}
