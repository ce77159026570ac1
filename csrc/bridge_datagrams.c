/* Batches: many datagrams of one UDP socket in one system call. Linux only: elsewhere the module has no `batches`.
 *
 * Packets of one size that follow each other leave as one message that the system cuts into segments at the very end of
 * its way (UDP_SEGMENT), where it can: the way is walked once for all of them.
 *
 * A source's address is made once for as long as the same source goes on, so that who groups by it compares pointers.
 * The calls never wait, so the GIL is kept.
 */
#define _GNU_SOURCE
#include "bridge.h"

#ifdef __linux__

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/socket.h>

enum {
    BATCH = 64,
    DATAGRAM_BYTES_MAX = 65536,
    /* A stride of whole pages would put all datagrams into the same few lines of the processor's caches. */
    SLOT_BYTES = DATAGRAM_BYTES_MAX + 2112,
    SEGMENTS_BYTES_MAX = 65535 - 40 - 8, /* with the longer of the IP headers, and UDP's */
};

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* since Linux 4.18; older headers lack it, and older systems the option */
#endif

typedef union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
} address;

typedef struct batches {
    PyObject_HEAD bridge_state *state;
    int fd;
    bool is_connected; /* the datagrams come without their sources */
    Py_buffer space;
    address source; /* the last one, and */
    PyObject *source_object;
    address target;
    socklen_t target_bytes;
    PyObject *target_object;
    size_t segment_bytes_max; /* packets that the system cuts from a run of them; 0: it cannot, or has refused */
} batches;

/* --- Addresses, as Python's sockets have them ---------------------------------------------------------------- */

static PyObject *make_address(const address *from)
{
    char host[INET6_ADDRSTRLEN];

    if (from->any.sa_family == AF_INET) {
        inet_ntop(AF_INET, &from->v4.sin_addr, host, sizeof host);
        return Py_BuildValue("si", host, (int)ntohs(from->v4.sin_port));
    }
    inet_ntop(AF_INET6, &from->v6.sin6_addr, host, sizeof host);
    return Py_BuildValue("siII", host, (int)ntohs(from->v6.sin6_port), (unsigned)ntohl(from->v6.sin6_flowinfo),
                         (unsigned)from->v6.sin6_scope_id);
}

static bool is_same(const address *one, const address *other)
{
    if (one->any.sa_family != other->any.sa_family)
        return false;
    if (one->any.sa_family == AF_INET)
        return one->v4.sin_port == other->v4.sin_port && one->v4.sin_addr.s_addr == other->v4.sin_addr.s_addr;
    return memcmp(&one->v6, &other->v6, sizeof one->v6) == 0;
}

/* The source as an object, borrowed. */
static PyObject *source_object(batches *self, const address *from)
{
    if (self->source_object == NULL || !is_same(from, &self->source)) {
        PyObject *made = make_address(from);
        if (made == NULL)
            return NULL;
        Py_XDECREF(self->source_object);
        self->source_object = made;
        self->source = *from;
    }
    return self->source_object;
}

/* Makes `object`, a tuple or None, the target. */
static bool use_target(batches *self, PyObject *object)
{
    const char *host;
    unsigned port, flow = 0, scope = 0;

    if (object == Py_None || object == self->target_object)
        return true;
    if (!PyArg_ParseTuple(object, "sI|II", &host, &port, &flow, &scope))
        return false;
    memset(&self->target, 0, sizeof self->target);
    if (inet_pton(AF_INET, host, &self->target.v4.sin_addr) == 1) {
        self->target.v4.sin_family = AF_INET;
        self->target.v4.sin_port = htons((uint16_t)port);
        self->target_bytes = sizeof self->target.v4;
    } else if (inet_pton(AF_INET6, host, &self->target.v6.sin6_addr) == 1) {
        self->target.v6.sin6_family = AF_INET6;
        self->target.v6.sin6_port = htons((uint16_t)port);
        self->target.v6.sin6_flowinfo = htonl(flow);
        self->target.v6.sin6_scope_id = scope;
        self->target_bytes = sizeof self->target.v6;
    } else {
        PyErr_Format(PyExc_ValueError, "'%s' is no numeric address", host);
        return false;
    }
    Py_XDECREF(self->target_object);
    self->target_object = Py_NewRef(object);
    return true;
}

/* --- Receiving --------------------------------------------------------------------------------------------- */

static PyObject *make_item(batches *self, const struct mmsghdr *message)
{
    const struct iovec *part = message->msg_hdr.msg_iov;
    PyObject *datagram = PyBytes_FromStringAndSize(part->iov_base, (Py_ssize_t)message->msg_len);

    if (datagram == NULL || self->is_connected)
        return datagram;
    PyObject *source = source_object(self, message->msg_hdr.msg_name);
    PyObject *pair = source == NULL ? NULL : PyTuple_New(2);
    if (pair == NULL) {
        Py_DECREF(datagram);
        return NULL;
    }
    PyTuple_SetItem(pair, 0, datagram);
    PyTuple_SetItem(pair, 1, Py_NewRef(source));
    return pair;
}

PyDoc_STRVAR(receive_doc, "receive($self, /)\n--\n\nWhat is there, in one call: datagrams, each with its source unless "
                          "the socket is connected.");

static PyObject *batches_receive(PyObject *object, PyObject *ignored)
{
    batches *self = (batches *)object;
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];
    address sources[BATCH];
    (void)ignored;

    memset(messages, 0, sizeof messages);
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){.iov_base = (uint8_t *)self->space.buf + (size_t)i * SLOT_BYTES,
                                  .iov_len = DATAGRAM_BYTES_MAX};
        messages[i].msg_hdr.msg_iov = &parts[i];
        messages[i].msg_hdr.msg_iovlen = 1;
        messages[i].msg_hdr.msg_name = &sources[i];
        messages[i].msg_hdr.msg_namelen = sizeof sources[i];
    }
    int count = recvmmsg(self->fd, messages, BATCH, MSG_DONTWAIT, NULL);
    if (count < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    PyObject *items = PyList_New(count);
    for (int i = 0; items != NULL && i < count; i++) {
        PyObject *item = make_item(self, &messages[i]);
        if (item == NULL)
            Py_CLEAR(items);
        else
            PyList_SetItem(items, i, item);
    }
    return items;
}

/* --- Sending ----------------------------------------------------------------------------------------------- */

typedef union control {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(uint16_t))];
} control;

/* How many packets, from the first on, go as segments of one: all are as long as it is, but for the last, shorter one. */
static int run_of(const batches *self, const bridge_bytes *packets, int count)
{
    size_t size = packets[0].size, total = size;
    int run = 1;

    if (size == 0 || size > self->segment_bytes_max)
        return 1;
    while (run < count && packets[run - 1].size == size && packets[run].size <= size && packets[run].size > 0 &&
           total + packets[run].size <= SEGMENTS_BYTES_MAX)
        total += packets[run++].size;
    return run;
}

static void ask_for_segments(struct msghdr *message, control *asked, size_t size)
{
    uint16_t segment_bytes = (uint16_t)size;

    message->msg_control = asked;
    message->msg_controllen = sizeof *asked;
    asked->header.cmsg_level = IPPROTO_UDP;
    asked->header.cmsg_type = UDP_SEGMENT;
    asked->header.cmsg_len = CMSG_LEN(sizeof segment_bytes);
    memcpy(CMSG_DATA(&asked->header), &segment_bytes, sizeof segment_bytes);
}

/* The system refuses to cut segments of that size: the network card cannot, or they are too long for its packets. */
static bool segments_refused(batches *self, size_t size)
{
    if (errno == EIO)
        self->segment_bytes_max = 0;
    else if (errno == EINVAL || errno == EMSGSIZE)
        self->segment_bytes_max = size - 1;
    else
        return false;
    return true;
}

/* Sends a group at once; how many went, or -1 with errno. */
static int send_group(batches *self, bridge_bytes *packets, int count, bool is_addressed)
{
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];
    control controls[BATCH];
    int filled = 0, packets_sent = 0;

    memset(messages, 0, sizeof *messages * (size_t)count);
    for (int at = 0, run; at < count; at += run) {
        struct msghdr *message = &messages[filled].msg_hdr;
        run = run_of(self, packets + at, count - at);
        for (int i = at; i < at + run; i++)
            parts[i] = (struct iovec){.iov_base = (void *)(uintptr_t)packets[i].data, .iov_len = packets[i].size};
        message->msg_iov = &parts[at];
        message->msg_iovlen = (size_t)run;
        message->msg_name = is_addressed ? (void *)(uintptr_t)&self->target : NULL;
        message->msg_namelen = is_addressed ? self->target_bytes : 0;
        if (run > 1)
            ask_for_segments(message, &controls[filled], packets[at].size);
        filled++;
    }
    int sent = sendmmsg(self->fd, messages, (unsigned)filled, MSG_DONTWAIT | MSG_NOSIGNAL);
    size_t before = self->segment_bytes_max;
    if (sent < 0 && messages[0].msg_hdr.msg_iovlen > 1 && segments_refused(self, packets[0].size)) {
        int one_by_one = send_group(self, packets, count, is_addressed);
        if (one_by_one < 0) /* it was not about the segments, as where the target has no port */
            self->segment_bytes_max = before;
        return one_by_one;
    }
    for (int i = 0; i < sent; i++)
        packets_sent += (int)messages[i].msg_hdr.msg_iovlen;
    return sent < 0 ? -1 : packets_sent;
}

PyDoc_STRVAR(send_doc, "send($self, packets, start, address, /)\n--\n\n"
                       "Send the packets of a list from `start` on, as many as one call takes, and return how many that "
                       "were; OSError is about the first of them. address: None on a connected socket.");

static PyObject *batches_send(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
    batches *self = (batches *)object;
    bridge_bytes packets[BATCH];
    int held = 0, sent = -1;

    if (count != 3 || !PyList_CheckExact(arguments[0]))
        return PyErr_Format(PyExc_TypeError, "send() takes a list, where to start, and an address");
    Py_ssize_t start = PyLong_AsSsize_t(arguments[1]), end = PyList_Size(arguments[0]);
    if (PyErr_Occurred() || !use_target(self, arguments[2]))
        return NULL;
    if (start < 0 || start >= end)
        return PyLong_FromLong(0);
    while (held < BATCH && start + held < end) {
        if (bridge_hold(&packets[held], PyList_GetItem(arguments[0], start + held)) < 0)
            goto done;
        held++;
    }
    sent = send_group(self, packets, held, arguments[2] != Py_None);
    if (sent < 0)
        PyErr_SetFromErrno(PyExc_OSError);
done:
    while (held > 0)
        bridge_drop(&packets[--held]);
    return sent < 0 ? NULL : PyLong_FromLong(sent);
}

/* --- The type ---------------------------------------------------------------------------------------------- */

static void batches_dealloc(PyObject *object)
{
    batches *self = (batches *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF(self->source_object);
    Py_XDECREF(self->target_object);
    PyBuffer_Release(&self->space);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyMethodDef batches_methods[] = {
    {"receive", batches_receive, METH_NOARGS, receive_doc},
    {"send", BRIDGE_FAST(batches_send), send_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot batches_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Many datagrams in one system call.")},
    {Py_tp_methods, batches_methods},
    {Py_tp_dealloc, (void *)batches_dealloc},
    {0, NULL},
};

static PyType_Spec batches_spec = {
    .name = "kernel._bridge.Batches",
    .basicsize = sizeof(batches),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = batches_slots,
};

/* An older system would ignore what it does not know, and send one long datagram: so it is asked before. */
static bool has_segments(int fd)
{
    int value;
    socklen_t size = sizeof value;
    return getsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &value, &size) == 0;
}

PyDoc_STRVAR(make_doc, "batches($module, fd, space, is_connected, /)\n--\n\n"
                       "The batches of a UDP socket. space: at least BATCH_BYTES, used within a call only.");

static PyObject *make_batches(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    bridge_state *state = PyModule_GetState(module);
    uint64_t fd;

    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "batches() takes 3 arguments, %zd given", count);
    int is_connected = PyObject_IsTrue(arguments[2]);
    if (is_connected < 0 || !bridge_integer(state, arguments[0], "fd", INT32_MAX, &fd))
        return NULL;
    batches *self = (batches *)PyType_GenericAlloc(state->batches_type, 0);
    if (self == NULL)
        return NULL;
    self->state = state;
    self->fd = (int)fd;
    self->is_connected = is_connected;
    self->segment_bytes_max = has_segments(self->fd) ? UINT16_MAX : 0;
    if (PyObject_GetBuffer(arguments[1], &self->space, PyBUF_WRITABLE) == 0 &&
        self->space.len < (Py_ssize_t)BATCH * SLOT_BYTES)
        PyErr_SetString(PyExc_ValueError, "the space is less than BATCH_BYTES");
    if (PyErr_Occurred())
        Py_CLEAR(self);
    return (PyObject *)self;
}

static PyMethodDef functions[] = {
    {"batches", BRIDGE_FAST(make_batches), make_doc},
    {NULL, NULL, 0, NULL},
};

int bridge_add_datagrams(PyObject *module)
{
    bridge_state *state = PyModule_GetState(module);
    state->batches_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &batches_spec, NULL);
    if (state->batches_type == NULL || PyModule_AddIntConstant(module, "BATCH_BYTES", BATCH * SLOT_BYTES) < 0)
        return -1;
    return PyModule_AddFunctions(module, functions);
}

#else

int bridge_add_datagrams(PyObject *module)
{
    (void)module;
    return 0;
}

#endif
