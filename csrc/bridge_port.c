/* Port: a channel's side of a lane. What its handler sends is encoded at once, into what the lane sends at the end. */
#include "bridge_lane.h"

#include <string.h>
#include <structmember.h>

#include "kf_bytes.h"

enum { BACKLOG_BYTES_MAX = 262144 }; /* what a read may make us send before the session takes over */

static const long long CREDIT_BYTES_MAX = 0x7fffffff; /* kernel/session/handshake.py */

/* --- Frames ------------------------------------------------------------------------------------------------ */

/* Whether messages can go this way now. */
static bool is_passable(const bridge_port *self)
{
    const bridge_lane *lane = self->lane;
    return lane->is_inside && lane->is_open && self->is_open && lane->out.total <= BACKLOG_BYTES_MAX &&
           (!lane->is_knl || self->account->sending_rest_bytes == BRIDGE_NOTHING);
}

static bool is_affordable(const bridge_port *self, long long cost)
{
    return cost <= self->account->send_credit_bytes && cost <= self->lane->account->send_credit_bytes;
}

static void spend(bridge_port *self, long long cost)
{
    self->account->send_credit_bytes -= cost;
    self->lane->account->send_credit_bytes -= cost;
}

static bool put_control(bridge_lane *lane, uint8_t type, uint32_t channel, const uint8_t *payload, uint32_t size)
{
    kf_frame frame = {.type = type, .flags = KF_KNL_CHECKSUM, .channel = channel, .size = size};
    uint8_t *place = bridge_outgoing_extend(&lane->out, KF_KNL_HEADER_BYTES + size);
    if (place == NULL)
        return false;
    kf_knl_pack(&frame, payload, place);
    memcpy(place + KF_KNL_HEADER_BYTES, payload, size);
    return true;
}

/* The body of what stands in `out` already: copied, or where it is. */
static bool put_body(bridge_lane *lane, PyObject *message, size_t start)
{
    size_t size = (size_t)Py_SIZE(message) - start;
    if (size >= BRIDGE_REFERENCE_BYTES_MIN)
        return bridge_outgoing_refer(&lane->out, message, start);
    uint8_t *place = bridge_outgoing_extend(&lane->out, size);
    if (place != NULL)
        memcpy(place, PyBytes_AsString(message) + start, size);
    return place != NULL;
}

/* --- KNL --------------------------------------------------------------------------------------------------- */

/* A header for the payload `message`, or like the header before. */
static void pack_header(const bridge_port *self, PyObject *message, const uint8_t *same, uint8_t *place)
{
    kf_frame frame = {.type = BRIDGE_DATA, .flags = self->lane->flags, .channel = self->number};
    if (same != NULL) {
        memcpy(place, same, KF_KNL_HEADER_BYTES);
        return;
    }
    frame.size = (uint32_t)Py_SIZE(message);
    kf_knl_pack(&frame, (const uint8_t *)PyBytes_AsString(message), place);
}

static bool put_large_knl(bridge_port *self, PyObject *message)
{
    uint8_t *place = bridge_outgoing_extend(&self->lane->out, KF_KNL_HEADER_BYTES);
    if (place == NULL)
        return false;
    pack_header(self, message, NULL, place);
    return put_body(self->lane, message, 0);
}

/* `total`: of all frames. All messages are short ones. */
static bool put_short_knl(bridge_port *self, PyObject *const *messages, Py_ssize_t count, size_t total)
{
    uint8_t *place = bridge_outgoing_extend(&self->lane->out, total);
    const uint8_t *same = NULL; /* a header like the next one: without the payload's checksum only the size differs */
    Py_ssize_t same_size = -1;

    if (place == NULL)
        return false;
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_ssize_t size = Py_SIZE(messages[i]);
        pack_header(self, messages[i], size == same_size ? same : NULL, place);
        if (!(self->lane->flags & KF_KNL_CHECKSUM)) {
            same = place;
            same_size = size;
        }
        memcpy(place + KF_KNL_HEADER_BYTES, PyBytes_AsString(messages[i]), (size_t)size);
        place += KF_KNL_HEADER_BYTES + size;
    }
    return true;
}

/* --- Length ------------------------------------------------------------------------------------------------ */

static size_t framed_bytes(const bridge_lane *lane, size_t size)
{
    return size + (lane->is_knl ? KF_KNL_HEADER_BYTES : lane->layout.width);
}

/* Whether a message can be framed. A length layout's message begins with the bytes in front of the length field. */
static bool fits(const bridge_lane *lane, size_t size)
{
    uint8_t field[8];
    if (lane->is_knl)
        return size <= lane->frame_bytes_max;
    size_t body = size - lane->layout.offset; /* less than nothing wraps round to more than any limit */
    return body <= lane->layout.frame_bytes_max && kf_length_pack(&lane->layout, body, field);
}

static uint8_t *write_length_header(const kf_length *layout, PyObject *message, uint8_t *place)
{
    memcpy(place, PyBytes_AsString(message), layout->offset);
    kf_length_pack(layout, (uint64_t)Py_SIZE(message) - layout->offset, place + layout->offset);
    return place + layout->offset + layout->width;
}

static bool put_large_length(bridge_port *self, PyObject *message)
{
    const kf_length *layout = &self->lane->layout;
    uint8_t *place = bridge_outgoing_extend(&self->lane->out, layout->offset + layout->width);
    if (place == NULL)
        return false;
    write_length_header(layout, message, place);
    return put_body(self->lane, message, layout->offset);
}

static bool put_short_length(bridge_port *self, PyObject *const *messages, Py_ssize_t count, size_t total)
{
    const kf_length *layout = &self->lane->layout;
    uint8_t *place = bridge_outgoing_extend(&self->lane->out, total);
    if (place == NULL)
        return false;
    for (Py_ssize_t i = 0; i < count; i++) {
        size_t body = (size_t)Py_SIZE(messages[i]) - layout->offset;
        place = write_length_header(layout, messages[i], place);
        memcpy(place, PyBytes_AsString(messages[i]) + layout->offset, body);
        place += body;
    }
    return true;
}

/* --- What handlers send ------------------------------------------------------------------------------------ */

enum { GROUP = 64 };

/* Whether messages, at most GROUP, can go this way: bytes that fit and that there is credit for. */
static bool measure(const bridge_port *self, PyObject *const *messages, Py_ssize_t count, size_t *total, bool *short_only)
{
    *total = 0;
    *short_only = true;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!PyBytes_CheckExact(messages[i]))
            return false;
        size_t size = (size_t)Py_SIZE(messages[i]);
        if (!fits(self->lane, size))
            return false;
        *short_only &= size < BRIDGE_REFERENCE_BYTES_MIN;
        *total += framed_bytes(self->lane, size);
    }
    return !self->lane->is_knl || is_affordable(self, (long long)*total);
}

static bool put_each(bridge_port *self, PyObject *const *messages, Py_ssize_t count)
{
    bool is_knl = self->lane->is_knl;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!(is_knl ? put_large_knl : put_large_length)(self, messages[i]))
            return false;
    }
    return true;
}

/* Puts measured messages into `out`, all of them or none. False: MemoryError is set. */
static bool put(bridge_port *self, PyObject *const *messages, Py_ssize_t count, size_t total, bool short_only)
{
    bool is_knl = self->lane->is_knl;
    bridge_mark before = bridge_outgoing_mark(&self->lane->out);

    if (short_only ? !(is_knl ? put_short_knl : put_short_length)(self, messages, count, total)
                   : !put_each(self, messages, count)) {
        bridge_outgoing_rewind(&self->lane->out, before);
        return false;
    }
    if (is_knl)
        spend(self, (long long)total);
    return true;
}

PyDoc_STRVAR(take_doc, "take($self, message, /)\n--\n\nA message to send; False: it has to go the long way.");

static PyObject *port_take(PyObject *object, PyObject *message)
{
    bridge_port *self = (bridge_port *)object;
    bool short_only;
    size_t total;

    if (!is_passable(self) || !measure(self, &message, 1, &total, &short_only))
        Py_RETURN_FALSE;
    if (!put(self, &message, 1, total, short_only))
        return NULL;
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(take_many_doc, "take_many($self, messages, /)\n--\n\nMessages to send, in order; returns how many were "
                            "taken, the others have to go the long way.");

static PyObject *port_take_many(PyObject *object, PyObject *messages)
{
    bridge_port *self = (bridge_port *)object;
    PyObject *group[GROUP];
    Py_ssize_t taken = 0, count = PyList_CheckExact(messages) ? PyList_Size(messages) : 0;

    while (taken < count && is_passable(self)) {
        Py_ssize_t size = count - taken < GROUP ? count - taken : GROUP;
        bool short_only;
        size_t total;
        for (Py_ssize_t i = 0; i < size; i++)
            group[i] = PyList_GetItem(messages, taken + i);
        if (!measure(self, group, size, &total, &short_only))
            break;
        if (!put(self, group, size, total, short_only))
            return NULL;
        taken += size;
    }
    return PyLong_FromSsize_t(taken);
}

PyDoc_STRVAR(take_piece_doc, "take_piece($self, piece, message_bytes, last, /)\n--\n\nA part of one message of "
                             "message_bytes; False: it has to go the long way.");

static bool is_crowded(const bridge_lane *lane, long long counted)
{
    long long others = lane->account->unfinished_bytes;
    return counted > 0 && others > 0 && counted > lane->unfinished_bytes_max - others;
}

/* Puts a piece into `out`, or nothing. False: MemoryError is set. */
static bool put_piece(bridge_port *self, PyObject *piece, long long message_bytes, bool begins, bool last)
{
    bridge_mark before = bridge_outgoing_mark(&self->lane->out);
    uint16_t flags = (uint16_t)(self->lane->flags | (begins ? BRIDGE_BEGIN : 0) | (last ? 0 : BRIDGE_MORE));
    uint32_t prefix = begins ? BRIDGE_PREFIX_BYTES : 0, size = (uint32_t)Py_SIZE(piece);
    kf_frame frame = {.type = BRIDGE_DATA, .flags = flags, .channel = self->number, .size = prefix + size};
    uint8_t *place = bridge_outgoing_extend(&self->lane->out, KF_KNL_HEADER_BYTES + prefix);

    if (place == NULL)
        return false;
    if (begins)
        kf_store64(place + KF_KNL_HEADER_BYTES, (uint64_t)message_bytes);
    kf_knl_pack(&frame, NULL, place); /* without checksums: see port_take_piece */
    if (!put_body(self->lane, piece, 0)) {
        bridge_outgoing_rewind(&self->lane->out, before);
        return false;
    }
    return true;
}

static PyObject *port_take_piece(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
    bridge_port *self = (bridge_port *)object;
    bridge_lane *lane = self->lane;
    bridge_account *account = self->account;

    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "take_piece() takes 3 arguments, %zd given", count);
    /* Before the port is looked at: either may run Python. */
    long long message_bytes = PyLong_AsLongLong(arguments[1]);
    int last = PyObject_IsTrue(arguments[2]);
    if (PyErr_Occurred())
        return NULL;
    /* A checksum would need the prefix and the piece in one place: the session's way. */
    if (!lane->is_knl || !(lane->is_inside && lane->is_open && self->is_open) || lane->flags & KF_KNL_CHECKSUM ||
        !PyBytes_CheckExact(arguments[0]) || lane->out.total > BACKLOG_BYTES_MAX || message_bytes < 0)
        Py_RETURN_FALSE;
    bool begins = account->sending_rest_bytes == BRIDGE_NOTHING;
    long long size = Py_SIZE(arguments[0]), framed = size + (begins ? BRIDGE_PREFIX_BYTES : 0);
    long long rest = (begins ? message_bytes : account->sending_rest_bytes) - size;
    long long counted = message_bytes <= lane->message_bytes_max ? message_bytes : 0;
    if (rest < 0 || (last != 0) != (rest == 0) || framed > lane->frame_bytes_max || (begins && last) ||
        !is_affordable(self, framed + KF_KNL_HEADER_BYTES) || (begins && is_crowded(lane, counted)))
        Py_RETURN_FALSE;
    if (!put_piece(self, arguments[0], message_bytes, begins, last))
        return NULL;
    spend(self, framed + KF_KNL_HEADER_BYTES);
    account->sending_rest_bytes = last ? BRIDGE_NOTHING : rest;
    if (begins) {
        account->unfinished_bytes = counted;
        lane->account->unfinished_bytes += counted;
    } else if (last) {
        lane->account->unfinished_bytes -= account->unfinished_bytes;
        account->unfinished_bytes = 0;
    }
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(leave_doc, "leave($self, /)\n--\n\nClose the port and its lane; what was taken so far is sent first.");

static PyObject *port_leave(PyObject *object, PyObject *ignored)
{
    bridge_port *self = (bridge_port *)object;
    (void)ignored;
    if (self->lane->keeper == NULL) /* the lane's end */
        Py_RETURN_NONE;
    return PyObject_CallMethod(self->lane->keeper, "leave", "O", self->channel);
}

/* --- Credit ------------------------------------------------------------------------------------------------ */

static bool grant(bridge_lane *lane, bridge_account *account, uint32_t channel, long long cost, long long window_bytes)
{
    uint8_t payload[4];

    account->ungranted_bytes += cost;
    if (account->ungranted_bytes * 2 < window_bytes)
        return true;
    kf_store32(payload, (uint32_t)account->ungranted_bytes);
    account->receive_credit_bytes += account->ungranted_bytes;
    account->ungranted_bytes = 0;
    return put_control(lane, BRIDGE_CREDIT, channel, payload, sizeof payload);
}

bool bridge_port_consumed(bridge_port *self, long long cost)
{
    bridge_lane *lane = self->lane;
    return grant(lane, self->account, self->number, cost, lane->channel_window_bytes) &&
           grant(lane, lane->account, 0, cost, lane->connection_window_bytes);
}

bool bridge_lane_credited(bridge_lane *lane, bridge_port *port, const uint8_t *payload, size_t size)
{
    bridge_account *account = port == NULL ? lane->account : port->account;
    if (size != 4)
        return false;
    long long nbytes = kf_load32(payload);
    if (nbytes == 0 || nbytes < lane->free_credit_bytes || account->send_credit_bytes + nbytes > CREDIT_BYTES_MAX)
        return false;
    account->send_credit_bytes += nbytes;
    return true;
}

/* --- The type ---------------------------------------------------------------------------------------------- */

static PyObject *get_lane_is_open(PyObject *object, void *ignored)
{
    bridge_port *self = (bridge_port *)object;
    (void)ignored;
    return PyBool_FromLong(self->is_open && self->lane->is_open);
}

static int port_traverse(PyObject *object, visitproc visit, void *arg)
{
    bridge_port *self = (bridge_port *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->lane);
    Py_VISIT(self->channel);
    Py_VISIT(self->on_messages);
    Py_VISIT(self->on_piece);
    return 0;
}

static int port_clear(PyObject *object)
{
    bridge_port *self = (bridge_port *)object;
    Py_CLEAR(self->channel);
    Py_CLEAR(self->on_messages);
    Py_CLEAR(self->on_piece);
    return 0;
}

static void port_dealloc(PyObject *object)
{
    bridge_port *self = (bridge_port *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    port_clear(object);
    Py_XDECREF(self->lane);
    Py_XDECREF(self->account);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyMethodDef port_methods[] = {
    {"take", port_take, METH_O, take_doc},
    {"take_many", port_take_many, METH_O, take_many_doc},
    {"take_piece", BRIDGE_FAST(port_take_piece), take_piece_doc},
    {"leave", port_leave, METH_NOARGS, leave_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef port_members[] = {
    {"is_open", T_BOOL, offsetof(bridge_port, is_open), 0, PyDoc_STR("Whether the channel takes the short way.")},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef port_attributes[] = {
    {"is_passable", get_lane_is_open, NULL, PyDoc_STR("Whether messages take the short way now."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot port_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A channel's side of a lane.")},
    {Py_tp_methods, port_methods},
    {Py_tp_members, port_members},
    {Py_tp_getset, port_attributes},
    {Py_tp_traverse, (void *)port_traverse},
    {Py_tp_clear, (void *)port_clear},
    {Py_tp_dealloc, (void *)port_dealloc},
    {0, NULL},
};

static PyType_Spec port_spec = {
    .name = "kernel._bridge.Port",
    .basicsize = sizeof(bridge_port),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = port_slots,
};

bridge_port *bridge_make_port(bridge_lane *lane, uint32_t number, PyObject *account, PyObject *channel,
                              PyObject *on_messages, PyObject *on_piece)
{
    bridge_port *self = (bridge_port *)PyType_GenericAlloc(lane->state->port_type, 0);
    if (self == NULL)
        return NULL;
    self->lane = (bridge_lane *)Py_NewRef(lane);
    self->number = number;
    self->account = account == NULL ? NULL : (bridge_account *)Py_NewRef(account);
    self->channel = Py_NewRef(channel);
    self->on_messages = Py_NewRef(on_messages);
    self->on_piece = on_piece == Py_None ? NULL : Py_NewRef(on_piece);
    return self;
}

int bridge_add_ports(PyObject *module)
{
    bridge_state *state = PyModule_GetState(module);
    state->port_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &port_spec, NULL);
    return state->port_type == NULL ? -1 : 0;
}
