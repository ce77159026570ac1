/*
 * The limit: what one thread of C on epoll does with length-framed messages (4 bytes, big-endian), echoed whole.
 *
 * One shared receive buffer; a read is scanned once for whole frames, which go back in one write. A partial frame is kept
 * in a buffer of its announced size, into which the rest is received straight.
 *
 * usage: epoll_echo tcp|unix:PATH      prints its endpoint, runs until killed
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { SHARED_BYTES = 256 * 1024, EVENTS_MAX = 256, HEADER_BYTES = 4, FRAME_BYTES_MAX = 64 << 20 };

struct connection {
    int fd;
    uint8_t *frame; /* the frame that is not whole yet, with its header */
    size_t frame_bytes, frame_used;
    uint8_t header[HEADER_BYTES]; /* while not even the header is whole */
    size_t header_used;
    uint8_t *unsent;
    size_t unsent_bytes, unsent_sent;
    uint8_t *large; /* kept between large frames: memory that is mapped already */
    size_t large_bytes;
};

static uint8_t shared[SHARED_BYTES];
static int epoll;

static size_t frame_length(const uint8_t *p) {
    return ((size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3]) + HEADER_BYTES;
}

static void connection_close(struct connection *c) {
    close(c->fd);
    free(c->large);
    free(c->unsent);
    free(c);
}

static void watch(struct connection *c, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
}

static bool flush_unsent(struct connection *c) {
    while (c->unsent_sent < c->unsent_bytes) {
        ssize_t n = send(c->fd, c->unsent + c->unsent_sent, c->unsent_bytes - c->unsent_sent, MSG_NOSIGNAL);
        if (n < 0) return errno == EAGAIN;
        c->unsent_sent += (size_t)n;
    }
    free(c->unsent);
    c->unsent = NULL;
    c->unsent_bytes = c->unsent_sent = 0;
    watch(c, EPOLLIN);
    return true;
}

static bool echo(struct connection *c, const uint8_t *data, size_t size) {
    if (c->unsent == NULL) {
        ssize_t n = send(c->fd, data, size, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) return false;
        if (n > 0) data += n, size -= (size_t)n;
        if (size == 0) return true;
        watch(c, EPOLLIN | EPOLLOUT);
    }
    uint8_t *grown = realloc(c->unsent, c->unsent_bytes + size);
    if (grown == NULL) return false;
    memcpy(grown + c->unsent_bytes, data, size);
    c->unsent = grown;
    c->unsent_bytes += size;
    return true;
}

static bool begin_frame(struct connection *c, const uint8_t *data, size_t size) {
    c->frame_bytes = frame_length(data);
    if (c->frame_bytes > FRAME_BYTES_MAX) return false;
    if (c->frame_bytes > c->large_bytes) {
        free(c->large);
        c->large = malloc(c->large_bytes = c->frame_bytes);
        if (c->large == NULL) return false;
    }
    c->frame = c->large;
    memcpy(c->frame, data, size);
    c->frame_used = size;
    return true;
}

static bool received(struct connection *c, const uint8_t *data, size_t size) {
    size_t whole = 0;
    while (size - whole >= HEADER_BYTES) {
        size_t length = frame_length(data + whole);
        if (length > size - whole) break;
        whole += length;
    }
    if (whole > 0 && !echo(c, data, whole)) return false;
    data += whole, size -= whole;
    if (size >= HEADER_BYTES) return begin_frame(c, data, size);
    memcpy(c->header, data, size);
    c->header_used = size;
    return true;
}

static bool readable(struct connection *c) {
    if (c->frame != NULL) {
        ssize_t n = recv(c->fd, c->frame + c->frame_used, c->frame_bytes - c->frame_used, 0);
        if (n <= 0) return n < 0 && errno == EAGAIN;
        c->frame_used += (size_t)n;
        if (c->frame_used < c->frame_bytes) return true;
        c->frame = NULL;
        return echo(c, c->large, c->frame_bytes);
    }
    memcpy(shared, c->header, c->header_used);
    ssize_t n = recv(c->fd, shared + c->header_used, SHARED_BYTES - c->header_used, 0);
    if (n <= 0) return n < 0 && errno == EAGAIN;
    size_t size = c->header_used + (size_t)n;
    c->header_used = 0;
    return received(c, shared, size);
}

static void accept_all(int listener, bool tcp) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (tcp) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct connection *c = calloc(1, sizeof *c);
        c->fd = fd;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
}

static int listen_tcp(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, 1024) < 0) return -1;
    getsockname(fd, (struct sockaddr *)&address, &size);
    printf("tcp://127.0.0.1:%d\n", ntohs(address.sin_port));
    return fd;
}

static int listen_unix(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) return -1;
    memcpy(address.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 1024) < 0) return -1;
    printf("unix:%s\n", path);
    return fd;
}

int main(int argc, char **argv) {
    bool tcp = argc == 2 && strcmp(argv[1], "tcp") == 0;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int listener = tcp ? listen_tcp() : argc == 2 && strncmp(argv[1], "unix:", 5) == 0 ? listen_unix(argv[1] + 5) : -1;
    if (listener < 0) return fputs("usage: epoll_echo tcp|unix:PATH\n", stderr), 2;
    fflush(stdout);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS_MAX];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS_MAX, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (c == NULL) {
                accept_all(listener, tcp);
                continue;
            }
            bool alive = !(events[i].events & EPOLLOUT) || flush_unsent(c);
            if (!alive || ((events[i].events & ~(uint32_t)EPOLLOUT) && !readable(c))) connection_close(c);
        }
    }
}
