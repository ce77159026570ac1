/* Handing messages to services: what a lane does with whole frames. bridge_lane.h says what a lane is. */
#include "bridge_lane.h"

#include "kf_bytes.h"

/* What came of frames. */
typedef enum { BROKEN, DONE, UNUSUAL } outcome; /* BROKEN: an exception is set */

/* --- To a handler ------------------------------------------------------------------------------------------ */

/* What is no Exception (KeyboardInterrupt, SystemExit) is not the channel's affair: it goes on to the event loop. */
static bool tell_failure(bridge_lane *self, PyObject *channel)
{
    PyObject *type, *error, *traceback;

    if (!PyErr_ExceptionMatches(PyExc_Exception))
        return false;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (error != NULL && traceback != NULL)
        PyException_SetTraceback(error, traceback);
    bool result = bridge_told(PyObject_CallMethod(self->keeper, "failed", "OO", channel, error));
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return result;
}

/* A port's handler has answered, or raised; what it was given costs so much. */
static bool settle(bridge_port *port, PyObject *answer, long long cost)
{
    bridge_lane *self = port->lane;

    self->is_inside = false;
    Py_XDECREF(answer);
    if (answer == NULL) {
        if (!self->is_knl) /* it can only lose its connection: nothing more is said */
            bridge_outgoing_clear(&self->out);
        if (!tell_failure(self, port->channel))
            return false;
    }
    if (!self->is_open || !port->is_open) /* then it is not consumed for sure */
        return bridge_told(PyObject_CallMethod(self->keeper, "left", "OL", port->channel, cost));
    return !self->is_knl || bridge_port_consumed(port, cost);
}

bool bridge_port_deliver(bridge_port *port, PyObject *messages, long long cost)
{
    PyObject *on_messages = Py_NewRef(port->on_messages), *channel = Py_NewRef(port->channel);

    Py_INCREF(port);
    port->lane->is_inside = true;
    PyObject *answer = PyObject_CallFunctionObjArgs(on_messages, channel, messages, NULL);
    bool result = settle(port, answer, cost);
    Py_DECREF(port);
    Py_DECREF(on_messages);
    Py_DECREF(channel);
    return result;
}

static bool deliver_piece(bridge_port *port, PyObject *piece, long long message_bytes, bool last, long long cost)
{
    PyObject *on_piece = Py_NewRef(port->on_piece), *channel = Py_NewRef(port->channel);
    PyObject *total = PyLong_FromLongLong(message_bytes), *answer = NULL;

    Py_INCREF(port);
    port->lane->is_inside = true;
    if (total != NULL)
        answer = PyObject_CallFunctionObjArgs(on_piece, channel, piece, total, last ? Py_True : Py_False, NULL);
    Py_XDECREF(total);
    bool result = settle(port, answer, cost);
    Py_DECREF(port);
    Py_DECREF(on_piece);
    Py_DECREF(channel);
    return result;
}

/* --- Runs of KNL frames ------------------------------------------------------------------------------------ */

typedef struct run {
    long type;
    long flags;
    PyObject *channel; /* borrowed, as are the payloads */
    PyObject *payloads;
    Py_ssize_t count;
    Py_ssize_t taken; /* payloads that were dealt with */
} run;

static void read_run(PyObject *tuple, run *found)
{
    found->type = PyLong_AsLong(PyTuple_GetItem(tuple, 0));
    found->flags = PyLong_AsLong(PyTuple_GetItem(tuple, 1));
    found->channel = PyTuple_GetItem(tuple, 2);
    found->payloads = PyTuple_GetItem(tuple, 3);
    found->count = PyList_Size(found->payloads);
    found->taken = 0;
}

/* The run without the payloads that were dealt with, a new reference. */
static PyObject *rest_of(const run *found)
{
    PyObject *payloads = PyList_GetSlice(found->payloads, found->taken, found->count);
    long long total = 0;

    if (payloads == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < PyList_Size(payloads); i++)
        total += Py_SIZE(PyList_GetItem(payloads, i));
    return Py_BuildValue("llONL", found->type, found->flags, found->channel, payloads, total);
}

/* The channel's port, borrowed; NULL: it has none, or that is closed. */
static bridge_port *port_of(bridge_lane *self, PyObject *channel)
{
    bridge_port *port = self->last;
    if (port == NULL || port->number != PyLong_AsUnsignedLong(channel))
        port = (bridge_port *)PyDict_GetItemWithError(self->ports, channel);
    self->last = port;
    return port != NULL && port->is_open ? port : NULL;
}

/* The peer pays for a frame of so much. */
static bool is_paid(bridge_port *port, long long cost)
{
    bridge_account *account = port->account, *connection = port->lane->account;
    if (cost > account->receive_credit_bytes || cost > connection->receive_credit_bytes)
        return false;
    account->receive_credit_bytes -= cost;
    connection->receive_credit_bytes -= cost;
    return true;
}

/* All that is left of the run, as messages. */
static outcome take_messages(bridge_port *port, run *found, long long payload_bytes)
{
    long long cost = payload_bytes + KF_KNL_HEADER_BYTES * (long long)(found->count - found->taken);
    if (!is_paid(port, cost))
        return UNUSUAL;
    found->taken = found->count;
    return bridge_port_deliver(port, found->payloads, cost) ? DONE : BROKEN;
}

/* The next payload as a part of a long message. */
static outcome take_piece(bridge_port *port, run *found)
{
    bridge_account *account = port->account;
    PyObject *payload = PyList_GetItem(found->payloads, found->taken);
    bool begins = found->flags & BRIDGE_BEGIN, last = !(found->flags & BRIDGE_MORE);
    long long size = Py_SIZE(payload), cost = size + KF_KNL_HEADER_BYTES;
    long long message_bytes = account->arriving_bytes, rest = account->arriving_rest_bytes;
    const uint8_t *data = (const uint8_t *)PyBytes_AsString(payload);

    if (port->on_piece == NULL || begins != (message_bytes == BRIDGE_NOTHING))
        return UNUSUAL;
    if (begins) {
        if (size < BRIDGE_PREFIX_BYTES || kf_load64(data) > INT64_MAX)
            return UNUSUAL;
        message_bytes = rest = (long long)kf_load64(data);
        size -= BRIDGE_PREFIX_BYTES;
    }
    rest -= size;
    if (rest < 0 || last != (rest == 0) || !is_paid(port, cost))
        return UNUSUAL;
    account->arriving_bytes = last ? BRIDGE_NOTHING : message_bytes;
    account->arriving_rest_bytes = rest;
    found->taken++;
    PyObject *piece =
        begins ? PyBytes_FromStringAndSize((const char *)data + BRIDGE_PREFIX_BYTES, size) : Py_NewRef(payload);
    bool result = piece != NULL && deliver_piece(port, piece, message_bytes, last, cost);
    Py_XDECREF(piece);
    return result ? DONE : BROKEN;
}

static outcome take_data(bridge_lane *self, run *found, long long payload_bytes)
{
    bridge_port *port = port_of(self, found->channel);
    outcome result = DONE;

    if (port == NULL || found->flags & ~(KF_KNL_CHECKSUM | BRIDGE_BEGIN | BRIDGE_MORE))
        return UNUSUAL;
    Py_INCREF(port);
    while (result == DONE && found->taken < found->count) {
        bool is_part = port->account->arriving_bytes != BRIDGE_NOTHING || found->flags & (BRIDGE_BEGIN | BRIDGE_MORE);
        if (!self->is_open || !port->is_open || (!is_part && found->taken > 0))
            result = UNUSUAL; /* short messages behind the end of a long one are a run of their own */
        else
            result = is_part ? take_piece(port, found) : take_messages(port, found, payload_bytes);
    }
    Py_DECREF(port);
    return result;
}

static outcome take_credit(bridge_lane *self, run *found)
{
    bool is_connection = PyLong_AsUnsignedLong(found->channel) == 0;
    bridge_port *port = is_connection ? NULL : port_of(self, found->channel);

    if (port == NULL && !is_connection)
        return UNUSUAL;
    for (; found->taken < found->count; found->taken++) {
        PyObject *payload = PyList_GetItem(found->payloads, found->taken);
        if (!bridge_lane_credited(self, port, (const uint8_t *)PyBytes_AsString(payload), (size_t)Py_SIZE(payload)))
            return UNUSUAL;
    }
    return DONE;
}

bool bridge_lane_take_runs(bridge_lane *self, PyObject *runs, Py_ssize_t *at)
{
    run found;

    for (Py_ssize_t count = PyList_Size(runs); *at < count && self->is_open; ++*at) {
        PyObject *tuple = PyList_GetItem(runs, *at);
        outcome result = UNUSUAL;
        read_run(tuple, &found);
        if (found.type == BRIDGE_DATA)
            result = take_data(self, &found, PyLong_AsLongLong(PyTuple_GetItem(tuple, 4)));
        else if (found.type == BRIDGE_CREDIT)
            result = take_credit(self, &found);
        if (result == BROKEN)
            return false;
        if (result == UNUSUAL) {
            if (found.taken > 0) {
                PyObject *rest = rest_of(&found);
                return rest != NULL && PyList_SetItem(runs, *at, rest) == 0;
            }
            return true;
        }
    }
    return true;
}
