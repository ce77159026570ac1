#include "bridge_outgoing.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum { ROOM_BYTES_SPARE = 1024, REFERENCES_STEP = 16, GATHERED_MAX = 64 };

uint8_t *bridge_outgoing_extend(bridge_outgoing *out, size_t size)
{
    if (size > out->room - out->used) {
        size_t room = out->room == 0 ? size + ROOM_BYTES_SPARE : 2 * out->room; /* a CREDIT behind it moves nothing */
        if (room < out->used + size)
            room = out->used + size;
        uint8_t *bytes = PyMem_Realloc(out->bytes, room);
        if (bytes == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        out->bytes = bytes;
        out->room = room;
    }
    uint8_t *place = out->bytes + out->used;
    out->used += size;
    out->total += size;
    return place;
}

bool bridge_outgoing_refer(bridge_outgoing *out, PyObject *message, size_t start)
{
    if (out->count % REFERENCES_STEP == 0) {
        size_t bytes = (out->count + REFERENCES_STEP) * sizeof(bridge_reference);
        bridge_reference *references = PyMem_Realloc(out->references, bytes);
        if (references == NULL) {
            PyErr_NoMemory();
            return false;
        }
        out->references = references;
    }
    out->references[out->count++] =
        (bridge_reference){.message = Py_NewRef(message), .start = start, .at = out->used};
    out->total += (size_t)Py_SIZE(message) - start;
    return true;
}

bridge_mark bridge_outgoing_mark(const bridge_outgoing *out)
{
    return (bridge_mark){.used = out->used, .count = out->count, .total = out->total};
}

void bridge_outgoing_rewind(bridge_outgoing *out, bridge_mark mark)
{
    while (out->count > mark.count)
        Py_DECREF(out->references[--out->count].message);
    out->used = mark.used;
    out->total = mark.total;
}

/* One call for the references from `first` on, at most GATHERED_MAX, with the bytes around them. */
static ssize_t send_gathered(const bridge_outgoing *out, int fd, size_t first, size_t *expected)
{
    struct iovec parts[2 * GATHERED_MAX + 1];
    struct msghdr message = {.msg_iov = parts};
    size_t last = out->count - first > GATHERED_MAX ? first + GATHERED_MAX : out->count;
    size_t at = first == 0 ? 0 : out->references[first - 1].at;

    *expected = 0;
    for (size_t i = first; i < last; i++) {
        const bridge_reference *reference = &out->references[i];
        struct iovec *part = &parts[message.msg_iovlen];
        part[0] = (struct iovec){.iov_base = out->bytes + at, .iov_len = reference->at - at};
        part[1] = (struct iovec){.iov_base = PyBytes_AsString(reference->message) + reference->start,
                                 .iov_len = (size_t)Py_SIZE(reference->message) - reference->start};
        *expected += part[0].iov_len + part[1].iov_len;
        message.msg_iovlen += 2;
        at = reference->at;
    }
    if (last == out->count) {
        parts[message.msg_iovlen++] = (struct iovec){.iov_base = out->bytes + at, .iov_len = out->used - at};
        *expected += out->used - at;
    }
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

size_t bridge_outgoing_send(const bridge_outgoing *out, int fd)
{
    size_t sent = 0, expected = out->used;
    ssize_t result;

    if (out->count == 0) {
        result = send(fd, out->bytes, out->used, MSG_DONTWAIT | MSG_NOSIGNAL);
        return result < 0 ? 0 : (size_t)result;
    }
    for (size_t first = 0; first < out->count; first += GATHERED_MAX) {
        result = send_gathered(out, fd, first, &expected);
        sent += result < 0 ? 0 : (size_t)result;
        if (result < 0 || (size_t)result < expected)
            break;
    }
    return sent;
}

/* Appends and gives up the reference, also when it is NULL. */
static bool append_new(PyObject *list, PyObject *item)
{
    bool result = item != NULL && PyList_Append(list, item) == 0;
    Py_XDECREF(item);
    return result;
}

static PyObject *bytes_between(const bridge_outgoing *out, size_t start, size_t end)
{
    return PyBytes_FromStringAndSize((const char *)out->bytes + start, (Py_ssize_t)(end - start));
}

static PyObject *referred(const bridge_reference *reference)
{
    if (reference->start == 0)
        return Py_NewRef(reference->message);
    return PyBytes_FromStringAndSize(PyBytes_AsString(reference->message) + reference->start,
                                     Py_SIZE(reference->message) - (Py_ssize_t)reference->start);
}

PyObject *bridge_outgoing_list(const bridge_outgoing *out)
{
    PyObject *list = PyList_New(0);
    size_t at = 0;
    bool result = list != NULL;

    for (size_t i = 0; result && i < out->count; i++) {
        const bridge_reference *reference = &out->references[i];
        result = append_new(list, bytes_between(out, at, reference->at)) && append_new(list, referred(reference));
        at = reference->at;
    }
    if (result && at < out->used)
        result = append_new(list, bytes_between(out, at, out->used));
    if (!result)
        Py_CLEAR(list);
    return list;
}

void bridge_outgoing_clear(bridge_outgoing *out)
{
    bridge_outgoing old = *out;
    *out = (bridge_outgoing){0};
    for (size_t i = 0; i < old.count; i++)
        Py_DECREF(old.references[i].message);
    PyMem_Free(old.references);
    PyMem_Free(old.bytes);
}
