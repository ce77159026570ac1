/* The least that moves a file from one process to another over TCP: a sender, and a receiver that writes it.
 *
 *   file_pair receive write|splice PATH    prints its port, takes one connection, writes what comes, says nothing else
 *   file_pair send PORT PATH               sends the file by sendfile
 *
 * No framing, no checksum, no resuming: what others are measured against.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 1 << 20 };

static int fail(const char *what)
{
    perror(what);
    return 1;
}

static int receive_write(int peer, int file)
{
    char *buffer = malloc(CHUNK);
    ssize_t got;
    if (buffer == NULL)
        return fail("malloc");
    while ((got = recv(peer, buffer, CHUNK, 0)) > 0)
        for (ssize_t at = 0, put; at < got; at += put)
            if ((put = write(file, buffer + at, (size_t)(got - at))) < 0)
                return fail("write");
    free(buffer);
    return got < 0 ? fail("recv") : 0;
}

static int receive_splice(int peer, int file)
{
    int ends[2];
    ssize_t got;
    if (pipe(ends) < 0 || fcntl(ends[1], F_SETPIPE_SZ, CHUNK) < 0)
        return fail("pipe");
    while ((got = splice(peer, NULL, ends[1], NULL, CHUNK, SPLICE_F_MOVE)) > 0)
        for (ssize_t rest = got, put; rest > 0; rest -= put)
            if ((put = splice(ends[0], NULL, file, NULL, (size_t)rest, SPLICE_F_MOVE)) <= 0)
                return fail("splice");
    return got < 0 ? fail("splice") : 0;
}

static int receive(const char *manner, const char *path)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, length) < 0 || listen(listener, 1) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &length) < 0)
        return fail("listen");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    int peer = accept(listener, NULL, NULL);
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (peer < 0 || file < 0)
        return fail(path);
    return strcmp(manner, "splice") == 0 ? receive_splice(peer, file) : receive_write(peer, file);
}

static int send_file(int port, const char *path)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((unsigned short)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int file = open(path, O_RDONLY);
    int peer = socket(AF_INET, SOCK_STREAM, 0);
    struct stat status;
    if (file < 0 || fstat(file, &status) < 0 || connect(peer, (struct sockaddr *)&address, sizeof address) < 0)
        return fail(path);
    for (off_t at = 0; at < status.st_size;)
        if (sendfile(peer, file, &at, (size_t)(status.st_size - at)) <= 0)
            return fail("sendfile");
    return 0;
}

int main(int count, char **words)
{
    if (count == 4 && strcmp(words[1], "receive") == 0)
        return receive(words[2], words[3]);
    if (count == 4 && strcmp(words[1], "send") == 0)
        return send_file(atoi(words[2]), words[3]);
    fprintf(stderr, "usage: file_pair receive write|splice PATH | send PORT PATH\n");
    return 2;
}
