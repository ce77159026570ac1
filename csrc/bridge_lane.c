/* Lane: what it receives and sends, and when it gives up. bridge_lane.h says what a lane is. */
#include "bridge_lane.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum {
    READS_PER_TURN = 4,
    DIRECT_BYTES_MIN = 32768, /* the rest of a frame that is received into the frame's own buffer */
    SPILL_BYTES = 4096,       /* received with it, or after it: the next frame's header, and not much to copy */
    /* What fits the caches, for while it is answered the peer makes the next; with the headers of 64 messages of 1 KiB,
     * or with one of 64 KiB and the next one's header, which so is not cut off a few bytes before its end. */
    READ_BYTES_MAX = 65536 + SPILL_BYTES,
};

/* --- Sending ----------------------------------------------------------------------------------------------- */

bool bridge_told(PyObject *result)
{
    Py_XDECREF(result);
    return result != NULL;
}

/* Sends what the handlers gave; the keeper gets what the socket did not take. */
static bool flush(bridge_lane *self)
{
    if (self->out.total == 0)
        return true;
    size_t sent = bridge_outgoing_send(&self->out, self->fd);
    if (sent == self->out.total) {
        bridge_outgoing_clear(&self->out);
        return true;
    }
    self->is_open = false;
    PyObject *buffers = bridge_outgoing_list(&self->out);
    bridge_outgoing_clear(&self->out);
    if (buffers == NULL)
        return false;
    return bridge_told(PyObject_CallMethod(self->keeper, "unsent", "Nn", buffers, (Py_ssize_t)sent));
}

/* --- Receiving --------------------------------------------------------------------------------------------- */

/* Hands on what was decoded, sends what is answered, and leaves the rest to the keeper. */
static bool handle(bridge_lane *self, PyObject *frames, Py_ssize_t nbytes)
{
    bool is_corrupt = bridge_decoder_failed(self->decoder);
    Py_ssize_t at = 0, count = PyList_Size(frames);
    bridge_port *port = (bridge_port *)self->ports;

    if (is_corrupt) { /* all that stands before is the session's, too */
    } else if (self->is_knl) {
        if (!bridge_lane_take_runs(self, frames, &at))
            return false;
    } else if (count > 0 && port->is_open) {
        at = count;
        if (!bridge_port_deliver(port, frames, nbytes))
            return false;
    }
    if (self->is_open && !flush(self))
        return false;
    if (at == count && !is_corrupt)
        return true;
    self->is_open = false;
    PyObject *rest = PyList_GetSlice(frames, at, count);
    return rest != NULL && bridge_told(PyObject_CallMethod(self->keeper, "undelivered", "N", rest));
}

/* Feeds what was received: `direct` bytes into the frame's own buffer, then `spilled` bytes into the scratch. */
static PyObject *decode(bridge_lane *self, size_t direct, size_t spilled)
{
    if (direct == 0)
        return bridge_decoder_feed(self->decoder, self->scratch, spilled);
    PyObject *frames = bridge_decoder_filled(self->decoder, direct);
    if (frames == NULL || spilled == 0 || bridge_decoder_failed(self->decoder))
        return frames;
    PyObject *more = bridge_decoder_feed(self->decoder, self->scratch, spilled);
    Py_ssize_t end = PyList_Size(frames);
    if (more == NULL || PyList_SetSlice(frames, end, end, more) < 0)
        Py_CLEAR(frames);
    Py_XDECREF(more);
    return frames;
}

/* One read. false: an exception is set. *goes_on: there may be more to read at once. */
static bool read_once(bridge_lane *self, bool *goes_on)
{
    struct iovec parts[2];
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    size_t least = self->expects_large ? 1 : DIRECT_BYTES_MIN, direct;

    parts[0].iov_base = bridge_decoder_room(self->decoder, least, &direct);
    parts[0].iov_len = direct;
    parts[1].iov_base = self->scratch;
    parts[1].iov_len = direct > 0 || self->expects_large ? SPILL_BYTES : self->scratch_bytes;
    self->expects_large = direct > 0;
    size_t room = direct + parts[1].iov_len;
    ssize_t nbytes = direct > 0 ? recvmsg(self->fd, &message, MSG_DONTWAIT)
                                : recv(self->fd, parts[1].iov_base, parts[1].iov_len, MSG_DONTWAIT);
    *goes_on = false;
    if (nbytes <= 0) {
        if (nbytes < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
            return true;
        self->is_open = false;
        return bridge_told(PyObject_CallMethod(self->keeper, "ended", "i", nbytes < 0 ? errno : 0));
    }
    self->reads++;
    *goes_on = (size_t)nbytes == room;
    size_t placed = (size_t)nbytes < direct ? (size_t)nbytes : direct;
    PyObject *frames = decode(self, placed, (size_t)nbytes - placed);
    if (frames == NULL)
        return false;
    bool result = handle(self, frames, nbytes);
    Py_DECREF(frames);
    return result;
}

PyDoc_STRVAR(on_readable_doc, "on_readable($self, /)\n--\n\nThe socket has something: for the event loop to call.");

static PyObject *lane_on_readable(PyObject *object, PyObject *ignored)
{
    bridge_lane *self = (bridge_lane *)object;
    bool goes_on = true;
    (void)ignored;

    if (self->keeper == NULL) /* the end */
        Py_RETURN_NONE;
    if (!self->is_open || self->is_inside)
        return PyObject_CallMethod(self->keeper, "readable", NULL);
    for (int reads = 0; goes_on && self->is_open && reads < READS_PER_TURN; reads++) {
        if (!read_once(self, &goes_on))
            return NULL;
    }
    Py_RETURN_NONE;
}

static int lane_clear(PyObject *object)
{
    bridge_lane *self = (bridge_lane *)object;
    self->is_open = false;
    self->last = NULL;
    Py_CLEAR(self->decoder);
    Py_CLEAR(self->keeper);
    Py_CLEAR(self->ports);
    return 0;
}

/* --- Opening and closing ----------------------------------------------------------------------------------- */

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\nClose the lane; returns buffers that were not sent.");

static PyObject *lane_close(PyObject *object, PyObject *ignored)
{
    bridge_lane *self = (bridge_lane *)object;
    (void)ignored;

    self->is_open = false;
    PyObject *buffers = bridge_outgoing_list(&self->out);
    bridge_outgoing_clear(&self->out);
    return buffers;
}

PyDoc_STRVAR(reopen_doc, "reopen($self, /)\n--\n\nAll that was unusual has passed.");

static PyObject *lane_reopen(PyObject *object, PyObject *ignored)
{
    bridge_lane *self = (bridge_lane *)object;
    (void)ignored;
    self->is_open = self->keeper != NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(end_doc, "end($self, /)\n--\n\nThe socket is gone: close the lane for good, and hold on to nobody.");

static PyObject *lane_end(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    lane_clear(object);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(add_doc, "add($self, number, account, channel, on_messages, on_piece, /)\n--\n\nThe port of a "
                      "channel, closed. account, on_piece: or None.");

static PyObject *lane_add(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
    bridge_lane *self = (bridge_lane *)object;
    uint64_t number;

    if (count != 5)
        return PyErr_Format(PyExc_TypeError, "add() takes 5 arguments, %zd given", count);
    if (!bridge_integer(self->state, arguments[0], "number", UINT32_MAX, &number))
        return NULL;
    if (self->is_knl && !PyObject_TypeCheck(arguments[1], self->state->account_type)) {
        PyErr_SetString(PyExc_TypeError, "add() takes an account of the C engine");
        return NULL;
    }
    bridge_port *port = bridge_make_port(self, (uint32_t)number, self->is_knl ? arguments[1] : NULL, arguments[2],
                                         arguments[3], arguments[4]);
    if (port == NULL)
        return NULL;
    self->last = NULL; /* borrowed from what may be replaced here */
    if (!self->is_knl) {
        PyObject *before = self->ports;
        self->ports = Py_NewRef(port);
        Py_XDECREF(before);
    } else if (PyDict_SetItem(self->ports, arguments[0], (PyObject *)port) < 0) {
        Py_CLEAR(port);
    }
    return (PyObject *)port;
}

PyDoc_STRVAR(remove_doc, "remove($self, number, /)\n--\n\nA channel is over.");

static PyObject *lane_remove(PyObject *object, PyObject *number)
{
    bridge_lane *self = (bridge_lane *)object;
    self->last = NULL;
    if (self->is_knl && PyDict_DelItem(self->ports, number) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* --- The type ---------------------------------------------------------------------------------------------- */

static PyObject *get_reads(PyObject *object, void *ignored)
{
    (void)ignored;
    return PyLong_FromUnsignedLongLong(((bridge_lane *)object)->reads);
}

static PyObject *get_is_open(PyObject *object, void *ignored)
{
    (void)ignored;
    return PyBool_FromLong(((bridge_lane *)object)->is_open);
}

static int lane_traverse(PyObject *object, visitproc visit, void *arg)
{
    bridge_lane *self = (bridge_lane *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->decoder);
    Py_VISIT(self->keeper);
    Py_VISIT(self->ports);
    return 0;
}

static void lane_dealloc(PyObject *object)
{
    bridge_lane *self = (bridge_lane *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    lane_clear(object);
    bridge_outgoing_clear(&self->out);
    Py_XDECREF(self->account);
    Py_XDECREF(self->scratch_object);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyMethodDef lane_methods[] = {
    {"on_readable", lane_on_readable, METH_NOARGS, on_readable_doc},
    {"close", lane_close, METH_NOARGS, close_doc},
    {"reopen", lane_reopen, METH_NOARGS, reopen_doc},
    {"end", lane_end, METH_NOARGS, end_doc},
    {"add", BRIDGE_FAST(lane_add), add_doc},
    {"remove", lane_remove, METH_O, remove_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef lane_attributes[] = {
    {"reads", get_reads, NULL, PyDoc_STR("How often something was received."), NULL},
    {"is_open", get_is_open, NULL, PyDoc_STR("Whether messages take the short way."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot lane_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The short way between a socket and its services.")},
    {Py_tp_methods, lane_methods},
    {Py_tp_getset, lane_attributes},
    {Py_tp_traverse, (void *)lane_traverse},
    {Py_tp_clear, (void *)lane_clear},
    {Py_tp_dealloc, (void *)lane_dealloc},
    {0, NULL},
};

static PyType_Spec lane_spec = {
    .name = "kernel._bridge.Lane",
    .basicsize = sizeof(bridge_lane),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = lane_slots,
};

/* --- Making one -------------------------------------------------------------------------------------------- */

/* The memoryview keeps the buffer where it is, and costs a lane less than a Py_buffer of its own. */
static bool use_scratch(bridge_lane *self, PyObject *view)
{
    Py_buffer buffer;

    if (!PyMemoryView_Check(view)) {
        PyErr_SetString(PyExc_TypeError, "a lane takes a memoryview to receive into");
        return false;
    }
    if (PyObject_GetBuffer(view, &buffer, PyBUF_WRITABLE) < 0)
        return false;
    self->scratch = buffer.buf;
    self->scratch_bytes = (size_t)buffer.len < READ_BYTES_MAX ? (size_t)buffer.len : READ_BYTES_MAX;
    self->scratch_object = Py_NewRef(view);
    PyBuffer_Release(&buffer);
    if (self->scratch_bytes < SPILL_BYTES)
        PyErr_SetString(PyExc_ValueError, "the scratch is too small");
    return self->scratch_bytes >= SPILL_BYTES;
}

/* A lane of no framing yet. */
static bridge_lane *new_lane(bridge_state *state, PyObject *const *arguments)
{
    uint64_t fd;

    if (!PyObject_TypeCheck(arguments[2], state->decoder_type)) {
        PyErr_SetString(PyExc_TypeError, "a lane takes a decoder of the C engine");
        return NULL;
    }
    if (!bridge_integer(state, arguments[0], "fd", INT32_MAX, &fd))
        return NULL;
    bridge_lane *self = (bridge_lane *)PyType_GenericAlloc(state->lane_type, 0);
    if (self == NULL)
        return NULL;
    self->state = state;
    self->fd = (int)fd;
    if (!use_scratch(self, arguments[1])) {
        Py_DECREF(self);
        return NULL;
    }
    self->decoder = Py_NewRef(arguments[2]);
    self->keeper = Py_NewRef(arguments[3]);
    return self;
}

PyDoc_STRVAR(length_lane_doc, "length_lane($module, fd, scratch, decoder, keeper, layout, /)\n--\n\n"
                              "A closed lane of one channel. scratch: the loop's receive buffer.");

static PyObject *length_lane(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 5)
        return PyErr_Format(PyExc_TypeError, "length_lane() takes 5 arguments, %zd given", count);
    bridge_lane *self = new_lane(PyModule_GetState(module), arguments);
    if (self != NULL && bridge_length(arguments[4], &self->layout) < 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

PyDoc_STRVAR(knl_lane_doc,
             "knl_lane($module, fd, scratch, decoder, keeper, account, flags, frame_bytes_max, message_bytes_max, "
             "unfinished_bytes_max, free_credit_bytes, channel_window_bytes, connection_window_bytes, /)\n--\n\n"
             "A closed lane of many channels. account: the connection's; the rest: what both sides have agreed on.");

static PyObject *knl_lane(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    static const char *const names[] = {"flags", "frame_bytes_max", "message_bytes_max", "unfinished_bytes_max",
                                        "free_credit_bytes", "channel_window_bytes", "connection_window_bytes"};
    static const uint64_t highs[] = {UINT16_MAX, UINT32_MAX, INT64_MAX, INT64_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX};
    bridge_state *state = PyModule_GetState(module);
    uint64_t terms[7];

    if (count != 12)
        return PyErr_Format(PyExc_TypeError, "knl_lane() takes 12 arguments, %zd given", count);
    if (!PyObject_TypeCheck(arguments[4], state->account_type)) {
        PyErr_SetString(PyExc_TypeError, "a lane takes an account of the C engine");
        return NULL;
    }
    for (int i = 0; i < 7; i++) {
        if (!bridge_integer(state, arguments[5 + i], names[i], highs[i], &terms[i]))
            return NULL;
    }
    bridge_lane *self = new_lane(state, arguments);
    if (self == NULL)
        return NULL;
    self->is_knl = true;
    self->account = (bridge_account *)Py_NewRef(arguments[4]);
    self->flags = (uint16_t)terms[0];
    self->frame_bytes_max = (uint32_t)terms[1];
    self->message_bytes_max = (long long)terms[2];
    self->unfinished_bytes_max = (long long)terms[3];
    self->free_credit_bytes = (long long)terms[4];
    self->channel_window_bytes = (long long)terms[5];
    self->connection_window_bytes = (long long)terms[6];
    self->ports = PyDict_New();
    if (self->ports == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static PyMethodDef functions[] = {
    {"length_lane", BRIDGE_FAST(length_lane), length_lane_doc},
    {"knl_lane", BRIDGE_FAST(knl_lane), knl_lane_doc},
    {NULL, NULL, 0, NULL},
};

int bridge_add_lanes(PyObject *module)
{
    bridge_state *state = PyModule_GetState(module);
    state->lane_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &lane_spec, NULL);
    if (state->lane_type == NULL || bridge_add_ports(module) < 0)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
