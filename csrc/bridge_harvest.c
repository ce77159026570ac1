/* Harvest: lists of what was decoded. bridge_harvest.h says what a harvest is. */
#include "bridge_harvest.h"

/* Appends and gives up the reference, also when it is NULL. */
static int append_new(PyObject *list, PyObject *item)
{
    if (item == NULL)
        return -1;
    int result = PyList_Append(list, item);
    Py_DECREF(item);
    return result;
}

static PyObject *bytes_at(const uint8_t *data, size_t offset, size_t size)
{
    return PyBytes_FromStringAndSize((const char *)data + offset, (Py_ssize_t)size);
}

/* There is a list from now on, with room for `count` more if it had to be made. */
static int make_list(bridge_harvest *found, size_t count)
{
    Py_ssize_t before = found->first != NULL;

    if (found->frames != NULL)
        return 0;
    found->frames = PyList_New(before + (Py_ssize_t)count);
    if (found->frames == NULL)
        return -1;
    if (before == 1)
        PyList_SetItem(found->frames, 0, found->first);
    found->first = NULL;
    return 0;
}

int bridge_harvest_message(bridge_harvest *found, PyObject *message)
{
    if (found->frames == NULL && found->first == NULL) {
        found->first = message;
        return message == NULL ? -1 : 0;
    }
    if (make_list(found, 0) < 0) {
        Py_XDECREF(message);
        return -1;
    }
    return append_new(found->frames, message);
}

/* The first batch of a chunk. */
static int fill_list(bridge_harvest *found, const uint8_t *data, const kf_slice *slices, size_t count)
{
    Py_ssize_t at = found->first != NULL;

    if (make_list(found, count) < 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        PyObject *frame = bytes_at(data, slices[i].offset, slices[i].size);
        if (frame == NULL)
            return -1;
        PyList_SetItem(found->frames, at++, frame);
    }
    return 0;
}

int bridge_harvest_slices(bridge_harvest *found, const uint8_t *data, const kf_slice *slices, size_t count)
{
    if (found->frames == NULL)
        return count == 0 ? 0 : fill_list(found, data, slices, count);
    for (size_t i = 0; i < count; i++) {
        if (append_new(found->frames, bytes_at(data, slices[i].offset, slices[i].size)) < 0)
            return -1;
    }
    return 0;
}

/* --- Runs --------------------------------------------------------------------------------------------------- */

static int close_run(bridge_harvest *found)
{
    if (found->payloads == NULL)
        return 0;
    PyObject *run = PyTuple_New(5);
    if (run == NULL)
        return -1;
    PyTuple_SetItem(run, 0, PyLong_FromLong(found->key.type));
    PyTuple_SetItem(run, 1, PyLong_FromLong(found->key.flags));
    PyTuple_SetItem(run, 2, PyLong_FromUnsignedLong(found->key.channel));
    PyTuple_SetItem(run, 3, found->payloads);
    PyTuple_SetItem(run, 4, PyLong_FromUnsignedLongLong(found->payload_bytes));
    found->payloads = NULL;
    if (PyErr_Occurred()) {
        Py_DECREF(run);
        return -1;
    }
    return bridge_harvest_message(found, run);
}

static bool is_alike(const kf_frame *one, const kf_frame *other)
{
    return one->type == other->type && one->flags == other->flags && one->channel == other->channel;
}

static bool goes_on(const bridge_harvest *found, const kf_frame *frame)
{
    return found->payloads != NULL && is_alike(&found->key, frame);
}

/* A run begins with `frame`, with room for the payloads of `count`. */
static int open_run(bridge_harvest *found, const kf_frame *frame, size_t count)
{
    if (close_run(found) < 0 || (found->payloads = PyList_New((Py_ssize_t)count)) == NULL)
        return -1;
    found->key = *frame;
    found->payload_bytes = 0;
    return 0;
}

int bridge_harvest_payload(bridge_harvest *found, const kf_frame *frame, PyObject *payload)
{
    if (!goes_on(found, frame) && open_run(found, frame, 0) < 0) {
        Py_XDECREF(payload);
        return -1;
    }
    found->payload_bytes += frame->size;
    return append_new(found->payloads, payload);
}

/* Room for `count` payloads more, where the run has only the one that the chunk before began. */
static int widen_run(bridge_harvest *found, size_t count)
{
    PyObject *payloads = PyList_New((Py_ssize_t)count + 1);
    if (payloads == NULL)
        return -1;
    PyList_SetItem(payloads, 0, Py_NewRef(PyList_GetItem(found->payloads, 0)));
    Py_DECREF(found->payloads);
    found->payloads = payloads;
    return 0;
}

/* Frames that are all alike, into the last `count` places of the run. */
static int fill_run(bridge_harvest *found, const uint8_t *data, const kf_frame *frames, size_t count)
{
    Py_ssize_t at = PyList_Size(found->payloads) - (Py_ssize_t)count;

    for (size_t i = 0; i < count; i++) {
        PyObject *payload = bytes_at(data, frames[i].offset, frames[i].size);
        if (payload == NULL)
            return -1;
        PyList_SetItem(found->payloads, at++, payload);
        found->payload_bytes += frames[i].size;
    }
    return 0;
}

/* Frames that are all alike. */
static int add_alike(bridge_harvest *found, const uint8_t *data, const kf_frame *frames, size_t count)
{
    if (!goes_on(found, frames))
        return open_run(found, frames, count) < 0 ? -1 : fill_run(found, data, frames, count);
    if (PyList_Size(found->payloads) == 1)
        return widen_run(found, count) < 0 ? -1 : fill_run(found, data, frames, count);
    for (size_t i = 0; i < count; i++) {
        if (bridge_harvest_payload(found, &frames[i], bytes_at(data, frames[i].offset, frames[i].size)) < 0)
            return -1;
    }
    return 0;
}

int bridge_harvest_frames(bridge_harvest *found, const uint8_t *data, const kf_frame *frames, size_t count)
{
    for (size_t at = 0, end; at < count; at = end) {
        for (end = at + 1; end < count && is_alike(&frames[at], &frames[end]);)
            end++;
        if (add_alike(found, data, frames + at, end - at) < 0)
            return -1;
    }
    return 0;
}

/* --- The end ------------------------------------------------------------------------------------------------ */

PyObject *bridge_harvest_finish(bridge_harvest *found)
{
    if (close_run(found) < 0 || make_list(found, 0) < 0)
        return NULL;
    PyObject *frames = found->frames;
    found->frames = NULL;
    return frames;
}

void bridge_harvest_drop(bridge_harvest *found)
{
    Py_CLEAR(found->payloads);
    Py_CLEAR(found->first);
    Py_CLEAR(found->frames);
}
