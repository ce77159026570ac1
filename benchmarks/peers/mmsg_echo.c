/*
 * The limit for datagrams: one thread of C, recvmmsg and sendmmsg with batches of 64.
 *
 * usage: mmsg_echo     prints its endpoint, runs until killed
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BATCH_MAX = 64, DATAGRAM_BYTES_MAX = 65536, SOCKET_BUFFER_BYTES = 4 * 1024 * 1024 };

static struct mmsghdr messages[BATCH_MAX];
static struct iovec iovecs[BATCH_MAX];
static struct sockaddr_in sources[BATCH_MAX];

static int bound_socket(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_DGRAM, 0), bytes = SOCKET_BUFFER_BYTES;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) < 0) return -1;
    getsockname(fd, (struct sockaddr *)&address, &size);
    printf("udp://127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static void prepare(void) {
    uint8_t *storage = malloc((size_t)BATCH_MAX * DATAGRAM_BYTES_MAX);
    for (int i = 0; i < BATCH_MAX; i++) {
        iovecs[i].iov_base = storage + (size_t)i * DATAGRAM_BYTES_MAX;
        messages[i].msg_hdr = (struct msghdr){.msg_name = &sources[i], .msg_iov = &iovecs[i], .msg_iovlen = 1};
    }
}

int main(void) {
    int fd = bound_socket();
    if (fd < 0) return perror("mmsg_echo"), 1;
    prepare();
    for (;;) {
        for (int i = 0; i < BATCH_MAX; i++) {
            iovecs[i].iov_len = DATAGRAM_BYTES_MAX;
            messages[i].msg_hdr.msg_namelen = sizeof sources[i];
        }
        int count = recvmmsg(fd, messages, BATCH_MAX, MSG_WAITFORONE, NULL);
        for (int i = 0; i < count; i++) iovecs[i].iov_len = messages[i].msg_len;
        for (int sent = 0, n; sent < count; sent += n)
            if ((n = sendmmsg(fd, messages + sent, (unsigned)(count - sent), 0)) <= 0) break;
    }
}
