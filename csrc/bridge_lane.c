/* Lane: the short way of a plain framing's messages, socket to service to socket, in one call of the event loop's.
 *
 *     readable -> recv -> decode -> on_messages(channel, messages) -> take ... -> encode -> send
 *
 * The lane knows the usual and nothing else. Whatever is unusual closes it and is told to its keeper, a Python object
 * (kernel/lane.py), which goes on from exactly there and opens it again when all that has passed.
 *
 * Invariants: `out` holds messages only while the handler runs (`is_inside`); while the lane is open nothing that was
 * sent before waits anywhere else. The socket calls never wait, so the GIL is kept: giving it up and taking it back
 * costs more, and beside a busy thread a thousand times more.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "bridge.h"

enum {
    READS_PER_TURN = 4,
    JOIN_BYTES_MAX = 16384,     /* longer messages are sent from where they are */
    BACKLOG_BYTES_MAX = 262144, /* what a handler may send in one turn before the session takes over */
    GATHER_MAX = 64,            /* messages in one call that gathers them */
};

typedef struct lane {
    PyObject_HEAD bridge_state *state;
    int fd;
    bool is_open;
    bool is_inside;
    PyObject *layout_object; /* a kernel.framing.Length, and */
    kf_length layout;        /* what it says */
    Py_buffer scratch;
    PyObject *decoder;
    PyObject *channel;
    PyObject *on_messages;
    PyObject *keeper;
    PyObject *out;
    size_t out_bytes;
    size_t longest_bytes;
    unsigned long long reads;
} lane;

/* Tells the keeper, and drops what it answers. `result` is what it was called with. */
static bool told(PyObject *result)
{
    Py_XDECREF(result);
    return result != NULL;
}

static bool tell_failure(lane *self)
{
    PyObject *type, *error, *traceback;

    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (error != NULL && traceback != NULL)
        PyException_SetTraceback(error, traceback);
    bool result = told(PyObject_CallMethod(self->keeper, "failed", "O", error));
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return result;
}

/* --- Sending ----------------------------------------------------------------------------------------------- */

static PyObject *taken_out(lane *self)
{
    PyObject *out = self->out;
    self->out = NULL;
    self->out_bytes = self->longest_bytes = 0;
    return out != NULL ? out : PyList_New(0);
}

/* Sends messages from where they are; -1 with errno as `send` has it, *total is what there was to send. *fits: false
 * for a message that the layout can't carry, nothing is sent then. */
static ssize_t send_gathered(const lane *self, PyObject *messages, size_t *total, bool *fits)
{
    uint8_t fields[GATHER_MAX][8];
    struct iovec parts[3 * GATHER_MAX];
    struct msghdr message = {.msg_iov = parts};
    uint32_t offset = self->layout.offset, width = self->layout.width;

    *total = 0;
    for (Py_ssize_t i = 0, count = PyList_Size(messages); i < count; i++) {
        PyObject *item = PyList_GetItem(messages, i);
        char *data = PyBytes_AsString(item);
        size_t size = (size_t)Py_SIZE(item);
        *fits =
            size - offset <= self->layout.frame_bytes_max && kf_length_pack(&self->layout, size - offset, fields[i]);
        if (!*fits) /* a size less than the prefix wraps round to more than any limit */
            return -1;
        struct iovec *part = &parts[3 * i];
        part[0] = (struct iovec){.iov_base = data, .iov_len = offset};
        part[1] = (struct iovec){.iov_base = fields[i], .iov_len = width};
        part[2] = (struct iovec){.iov_base = data + offset, .iov_len = size - offset};
        message.msg_iovlen += 3;
        *total += size + width;
    }
    return sendmsg(self->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static ssize_t send_joined(const lane *self, PyObject *encoded)
{
    return send(self->fd, PyBytes_AsString(encoded), (size_t)Py_SIZE(encoded), MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Sends what the handler gave; the keeper gets what the socket did not take. */
static bool flush(lane *self)
{
    bool gathers = self->longest_bytes > JOIN_BYTES_MAX && PyList_Size(self->out) <= GATHER_MAX;
    PyObject *out = taken_out(self);
    size_t total = 0;
    ssize_t sent = -1;

    if (gathers)
        sent = send_gathered(self, out, &total, &gathers);
    if (!gathers) {
        PyObject *encoded = bridge_encode_length(self->state, self->layout_object, out);
        if (encoded == NULL) {
            Py_DECREF(out);
            return tell_failure(self);
        }
        total = (size_t)Py_SIZE(encoded);
        sent = send_joined(self, encoded);
        Py_DECREF(encoded);
    }
    bool result = true;
    if (sent < 0 || (size_t)sent < total) {
        self->is_open = false;
        result = told(PyObject_CallMethod(self->keeper, "unsent", "On", out, sent < 0 ? 0 : (Py_ssize_t)sent));
    }
    Py_DECREF(out);
    return result;
}

static int add_out(lane *self, PyObject *message)
{
    size_t size = (size_t)Py_SIZE(message);
    if (self->out == NULL && (self->out = PyList_New(0)) == NULL)
        return -1;
    if (PyList_Append(self->out, message) < 0)
        return -1;
    self->out_bytes += size;
    if (size > self->longest_bytes)
        self->longest_bytes = size;
    return 0;
}

static bool has_room(const lane *self)
{
    return self->is_inside && self->is_open && self->out_bytes <= BACKLOG_BYTES_MAX;
}

PyDoc_STRVAR(take_doc, "take($self, message, /)\n--\n\nA message to send; False: it has to go the long way.");

static PyObject *lane_take(PyObject *object, PyObject *message)
{
    lane *self = (lane *)object;

    if (!has_room(self) || !PyBytes_CheckExact(message))
        Py_RETURN_FALSE;
    if (add_out(self, message) < 0)
        return NULL;
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(take_many_doc, "take_many($self, messages, /)\n--\n\nA list of messages; False: they have to go the long "
                            "way, all of them.");

static PyObject *lane_take_many(PyObject *object, PyObject *messages)
{
    lane *self = (lane *)object;

    if (!has_room(self) || !PyList_CheckExact(messages))
        Py_RETURN_FALSE;
    Py_ssize_t count = PyList_Size(messages);
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!PyBytes_CheckExact(PyList_GetItem(messages, i)))
            Py_RETURN_FALSE;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (add_out(self, PyList_GetItem(messages, i)) < 0)
            return NULL;
    }
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\nClose the lane; returns the messages that were taken and not sent.");

static PyObject *lane_close(PyObject *object, PyObject *ignored)
{
    lane *self = (lane *)object;
    (void)ignored;

    self->is_open = false;
    return taken_out(self);
}

PyDoc_STRVAR(reopen_doc, "reopen($self, /)\n--\n\nAll that was unusual has passed.");

static PyObject *lane_reopen(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    ((lane *)object)->is_open = true;
    Py_RETURN_NONE;
}

/* --- Receiving --------------------------------------------------------------------------------------------- */

/* Hands messages to the service, and sends what it answers. */
static bool deliver(lane *self, PyObject *messages, ssize_t nbytes)
{
    PyObject *on_messages = Py_NewRef(self->on_messages), *channel = Py_NewRef(self->channel);

    self->is_inside = true;
    PyObject *answer = PyObject_CallFunctionObjArgs(on_messages, channel, messages, NULL);
    self->is_inside = false;
    Py_DECREF(on_messages);
    Py_DECREF(channel);
    Py_XDECREF(answer);
    if (answer == NULL) {
        Py_CLEAR(self->out);
        return tell_failure(self);
    }
    if (!self->is_open) /* the handler has closed it: what was delivered is not consumed for sure */
        return told(PyObject_CallMethod(self->keeper, "left", "n", (Py_ssize_t)nbytes));
    return self->out == NULL || flush(self);
}

/* One read. false: an exception is set. *goes_on: there may be more to read at once. */
static bool read_once(lane *self, bool *goes_on)
{
    size_t room;
    uint8_t *place = bridge_decoder_room(self->decoder, &room);
    bool is_direct = place != NULL;
    if (!is_direct) {
        place = self->scratch.buf;
        room = (size_t)self->scratch.len;
    }
    ssize_t nbytes = recv(self->fd, place, room, MSG_DONTWAIT);
    *goes_on = false;
    if (nbytes <= 0) {
        if (nbytes < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
            return true;
        self->is_open = false;
        return told(PyObject_CallMethod(self->keeper, "ended", "i", nbytes < 0 ? errno : 0));
    }
    self->reads++;
    PyObject *messages = is_direct ? bridge_decoder_filled(self->decoder, (size_t)nbytes)
                                   : bridge_decoder_feed(self->decoder, place, (size_t)nbytes);
    if (messages == NULL)
        return false;
    bool result = true;
    if (bridge_decoder_failed(self->decoder)) {
        self->is_open = false;
        result = told(PyObject_CallMethod(self->keeper, "decoded", "On", messages, (Py_ssize_t)nbytes));
    } else if (PyList_Size(messages) > 0) {
        result = deliver(self, messages, nbytes);
    }
    Py_DECREF(messages);
    *goes_on = (size_t)nbytes == room;
    return result;
}

PyDoc_STRVAR(on_readable_doc, "on_readable($self, /)\n--\n\nThe socket has something: for the event loop to call.");

static PyObject *lane_on_readable(PyObject *object, PyObject *ignored)
{
    lane *self = (lane *)object;
    bool goes_on = true;
    (void)ignored;

    if (!self->is_open || self->is_inside)
        return PyObject_CallMethod(self->keeper, "readable", NULL);
    for (int reads = 0; goes_on && self->is_open && reads < READS_PER_TURN; reads++) {
        if (!read_once(self, &goes_on))
            return NULL;
    }
    Py_RETURN_NONE;
}

/* --- The type ---------------------------------------------------------------------------------------------- */

static PyObject *get_reads(PyObject *object, void *ignored)
{
    (void)ignored;
    return PyLong_FromUnsignedLongLong(((lane *)object)->reads);
}

static PyObject *get_is_open(PyObject *object, void *ignored)
{
    (void)ignored;
    return PyBool_FromLong(((lane *)object)->is_open);
}

static int lane_traverse(PyObject *object, visitproc visit, void *arg)
{
    lane *self = (lane *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->layout_object);
    Py_VISIT(self->decoder);
    Py_VISIT(self->channel);
    Py_VISIT(self->on_messages);
    Py_VISIT(self->keeper);
    Py_VISIT(self->out);
    return 0;
}

static int lane_clear(PyObject *object)
{
    lane *self = (lane *)object;
    Py_CLEAR(self->layout_object);
    Py_CLEAR(self->decoder);
    Py_CLEAR(self->channel);
    Py_CLEAR(self->on_messages);
    Py_CLEAR(self->keeper);
    Py_CLEAR(self->out);
    return 0;
}

static void lane_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    lane_clear(object);
    PyBuffer_Release(&((lane *)object)->scratch);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyMethodDef lane_methods[] = {
    {"on_readable", lane_on_readable, METH_NOARGS, on_readable_doc},
    {"take", lane_take, METH_O, take_doc},
    {"take_many", lane_take_many, METH_O, take_many_doc},
    {"close", lane_close, METH_NOARGS, close_doc},
    {"reopen", lane_reopen, METH_NOARGS, reopen_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef lane_attributes[] = {
    {"reads", get_reads, NULL, PyDoc_STR("How often something was received."), NULL},
    {"is_open", get_is_open, NULL, PyDoc_STR("Whether messages take the short way."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot lane_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The short way between a socket and a service.")},
    {Py_tp_methods, lane_methods},
    {Py_tp_getset, lane_attributes},
    {Py_tp_traverse, (void *)lane_traverse},
    {Py_tp_clear, (void *)lane_clear},
    {Py_tp_dealloc, (void *)lane_dealloc},
    {0, NULL},
};

static PyType_Spec lane_spec = {
    .name = "kernel._bridge.Lane",
    .basicsize = sizeof(lane),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = lane_slots,
};

PyDoc_STRVAR(make_doc, "lane($module, fd, scratch, decoder, layout, channel, on_messages, keeper, /)\n--\n\n"
                       "An open lane. scratch: the loop's receive buffer; decoder: one of length_decoder's.");

static PyObject *make_lane(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    bridge_state *state = PyModule_GetState(module);
    uint64_t fd;

    if (count != 7)
        return PyErr_Format(PyExc_TypeError, "lane() takes 7 arguments, %zd given", count);
    if (!PyObject_TypeCheck(arguments[2], state->decoder_type)) {
        PyErr_SetString(PyExc_TypeError, "lane() takes a decoder of the C engine");
        return NULL;
    }
    if (!bridge_integer(state, arguments[0], "fd", INT32_MAX, &fd))
        return NULL;
    lane *self = (lane *)PyType_GenericAlloc(state->lane_type, 0);
    if (self == NULL)
        return NULL;
    self->state = state;
    self->fd = (int)fd;
    self->is_open = true;
    if (PyObject_GetBuffer(arguments[1], &self->scratch, PyBUF_WRITABLE) < 0 ||
        bridge_length(arguments[3], &self->layout) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    self->decoder = Py_NewRef(arguments[2]);
    self->layout_object = Py_NewRef(arguments[3]);
    self->channel = Py_NewRef(arguments[4]);
    self->on_messages = Py_NewRef(arguments[5]);
    self->keeper = Py_NewRef(arguments[6]);
    return (PyObject *)self;
}

static PyMethodDef functions[] = {
    {"lane", BRIDGE_FAST(make_lane), make_doc},
    {NULL, NULL, 0, NULL},
};

int bridge_add_lanes(PyObject *module)
{
    bridge_state *state = PyModule_GetState(module);
    state->lane_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &lane_spec, NULL);
    return state->lane_type == NULL ? -1 : PyModule_AddFunctions(module, functions);
}
