/* Encoding: two passes over the messages, one to add up and check their sizes, one to write.
 *
 * Between the passes no Python code runs, so a list can't change under them. That holds for lists and tuples of
 * bytes objects, the common case; of anything else a tuple of bytes is made first.
 */
#include <string.h>

#include "bridge.h"

static PyObject *item_at(PyObject *messages, Py_ssize_t index)
{
    return PyTuple_CheckExact(messages) ? PyTuple_GetItem(messages, index) : PyList_GetItem(messages, index);
}

static bool is_plain(PyObject *messages)
{
    if (!PyTuple_CheckExact(messages) && !PyList_CheckExact(messages))
        return false;
    for (Py_ssize_t i = 0, count = Py_SIZE(messages); i < count; i++) {
        if (!PyBytes_CheckExact(item_at(messages, i)))
            return false;
    }
    return true;
}

/* A list or tuple of bytes objects, a new reference. */
static PyObject *plain_messages(PyObject *messages)
{
    if (is_plain(messages))
        return Py_NewRef(messages);
    PyObject *copy = PySequence_List(messages);
    if (copy == NULL)
        return NULL;
    for (Py_ssize_t i = 0, count = PyList_Size(copy); i < count; i++) {
        bridge_bytes bytes;
        if (bridge_hold(&bytes, PyList_GetItem(copy, i)) < 0) {
            Py_DECREF(copy);
            return NULL;
        }
        PyObject *plain = PyBytes_FromStringAndSize((const char *)bytes.data, (Py_ssize_t)bytes.size);
        bridge_drop(&bytes);
        if (plain == NULL || PyList_SetItem(copy, i, plain) < 0) {
            Py_DECREF(copy);
            return NULL;
        }
    }
    return copy;
}

/* Makes `layout` the one to encode with; it is read only if it wasn't the last one. */
static int use_layout(bridge_state *state, PyObject *layout)
{
    kf_length compiled;

    if (state->layout == layout)
        return 0;
    if (bridge_length(layout, &compiled) < 0)
        return -1;
    uint32_t bits = 8 * compiled.width - compiled.is_signed;
    int64_t field_max = bits < 62 ? ((int64_t)1 << bits) - 1 : (int64_t)1 << 62;
    int64_t body_min = compiled.adjust > 0 ? compiled.adjust : 0;
    int64_t body_max = field_max + compiled.adjust;
    if (body_max > (int64_t)compiled.frame_bytes_max)
        body_max = (int64_t)compiled.frame_bytes_max;
    Py_XDECREF(state->layout);
    state->layout = Py_NewRef(layout);
    state->compiled = compiled;
    state->body_min = (uint64_t)body_min;
    state->body_count = body_max < body_min ? 0 : (uint64_t)(body_max - body_min) + 1;
    return 0;
}

/* Whether the layout in use can carry a message of `size` bytes. What is too small wraps round to too large. */
static bool is_sendable(const bridge_state *state, size_t size)
{
    return size - state->compiled.offset - state->body_min < state->body_count && size >= state->compiled.offset;
}

/* Sets the exception for a message that isn't; returns NULL. */
static PyObject *refuse_size(bridge_state *state, size_t size)
{
    const kf_length *layout = &state->compiled;
    unsigned long long message_bytes = size, offset = layout->offset, limit = layout->frame_bytes_max;

    if (size < offset)
        return bridge_raise(bridge_make_error(state, "missing_prefix", Py_BuildValue("KK", message_bytes, offset)));
    if (size - offset > limit)
        return bridge_raise(bridge_make_error(state, "unsendable_size",
                                              Py_BuildValue("KKs", message_bytes, limit + offset, "frame_bytes_max")));
    long long length = (long long)(size - offset) - layout->adjust;
    return bridge_raise(
        bridge_make_error(state, "unsendable_length",
                          Py_BuildValue("LIO", length, layout->width, layout->is_signed ? Py_True : Py_False)));
}

/* Size of all frames of plain messages, or -1 with an exception set. */
static Py_ssize_t length_total(bridge_state *state, PyObject *messages)
{
    size_t total = 0;

    for (Py_ssize_t i = 0, count = Py_SIZE(messages); i < count; i++) {
        size_t size = (size_t)Py_SIZE(item_at(messages, i));
        if (!is_sendable(state, size)) {
            refuse_size(state, size);
            return -1;
        }
        if (size + state->compiled.width > PY_SSIZE_T_MAX - total) {
            PyErr_NoMemory();
            return -1;
        }
        total += size + state->compiled.width;
    }
    return (Py_ssize_t)total;
}

static void write_length(const kf_length *layout, PyObject *messages, uint8_t *out)
{
    for (Py_ssize_t i = 0, count = Py_SIZE(messages); i < count; i++) {
        PyObject *message = item_at(messages, i);
        const char *data = PyBytes_AsString(message);
        size_t body_bytes = (size_t)Py_SIZE(message) - layout->offset;
        if (layout->offset > 0)
            memcpy(out, data, layout->offset);
        kf_length_pack(layout, body_bytes, out + layout->offset);
        out += layout->offset + layout->width;
        memcpy(out, data + layout->offset, body_bytes);
        out += body_bytes;
    }
}

PyDoc_STRVAR(encode_length_doc, "encode_length($module, layout, messages, /)\n--\n\n"
                                "All messages, each with its header, in one buffer.");

static PyObject *encode_length(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    bridge_state *state = PyModule_GetState(module);

    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "encode_length() takes 2 arguments, %zd given", count);
    /* First the layout, which may be read by Python code: behind plain_messages none may run. */
    PyObject *messages = use_layout(state, arguments[0]) < 0 ? NULL : plain_messages(arguments[1]);
    if (messages == NULL)
        return NULL;
    Py_ssize_t total = use_layout(state, arguments[0]) < 0 ? -1 : length_total(state, messages);
    PyObject *encoded = total < 0 ? NULL : PyBytes_FromStringAndSize(NULL, total);
    if (encoded != NULL)
        write_length(&state->compiled, messages, (uint8_t *)PyBytes_AsString(encoded));
    Py_DECREF(messages);
    return encoded;
}

PyDoc_STRVAR(length_header_doc, "length_header($module, layout, message_bytes, /)\n--\n\n"
                                "The length field for a message of that size.");

static PyObject *length_header(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    bridge_state *state = PyModule_GetState(module);
    uint8_t field[8];
    uint64_t size;

    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "length_header() takes 2 arguments, %zd given", count);
    if (use_layout(state, arguments[0]) < 0 ||
        !bridge_integer(state, arguments[1], "message_bytes", PY_SSIZE_T_MAX, &size))
        return NULL;
    if (!is_sendable(state, size))
        return refuse_size(state, size);
    kf_length_pack(&state->compiled, size - state->compiled.offset, field);
    return PyBytes_FromStringAndSize((const char *)field, state->compiled.width);
}

/* --- KNL/1 ------------------------------------------------------------------------------------------------- */

/* Type, flags and channel of the frames to encode, from three arguments. */
static bool read_kind(bridge_state *state, PyObject *const *arguments, kf_frame *frame)
{
    uint64_t type, flags, channel;

    if (!bridge_integer(state, arguments[0], "type", UINT8_MAX, &type) ||
        !bridge_integer(state, arguments[1], "flags", UINT16_MAX, &flags) ||
        !bridge_integer(state, arguments[2], "channel", UINT32_MAX, &channel))
        return false;
    memset(frame, 0, sizeof *frame);
    frame->type = (uint8_t)type;
    frame->flags = (uint16_t)flags;
    frame->channel = (uint32_t)channel;
    return true;
}

static Py_ssize_t knl_total(bridge_state *state, PyObject *payloads, uint64_t frame_bytes_max)
{
    size_t total = 0;

    for (Py_ssize_t i = 0, count = Py_SIZE(payloads); i < count; i++) {
        size_t size = (size_t)Py_SIZE(item_at(payloads, i));
        if (size > frame_bytes_max) {
            bridge_raise(bridge_make_error(state, "unsendable_size",
                                           Py_BuildValue("KKs", (unsigned long long)size,
                                                         (unsigned long long)frame_bytes_max, "frame_bytes_max")));
            return -1;
        }
        if (size + KF_KNL_HEADER_BYTES > PY_SSIZE_T_MAX - total) {
            PyErr_NoMemory();
            return -1;
        }
        total += size + KF_KNL_HEADER_BYTES;
    }
    return (Py_ssize_t)total;
}

static void write_knl(kf_frame *frame, PyObject *payloads, uint8_t *out)
{
    const uint8_t *same = NULL; /* a header like the next one: without the payload's checksum only the size differs */

    for (Py_ssize_t i = 0, count = Py_SIZE(payloads); i < count; i++) {
        PyObject *payload = item_at(payloads, i);
        const uint8_t *data = (const uint8_t *)PyBytes_AsString(payload);
        uint32_t size = (uint32_t)Py_SIZE(payload);
        if (same != NULL && size == frame->size) {
            memcpy(out, same, KF_KNL_HEADER_BYTES);
        } else {
            frame->size = size;
            kf_knl_pack(frame, data, out);
            same = frame->flags & KF_KNL_CHECKSUM ? NULL : out;
        }
        memcpy(out + KF_KNL_HEADER_BYTES, data, size);
        out += KF_KNL_HEADER_BYTES + size;
    }
}

PyDoc_STRVAR(encode_knl_doc, "encode_knl($module, type, flags, channel, payloads, /, frame_bytes_max=65536)\n--\n\n"
                             "One frame a payload, all in one buffer.");

static PyObject *encode_knl(PyObject *module, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    bridge_state *state = PyModule_GetState(module);
    uint64_t frame_bytes_max = 65536;
    kf_frame frame;

    if (keywords != NULL && PyTuple_Size(keywords) == 1 &&
        PyUnicode_CompareWithASCIIString(PyTuple_GetItem(keywords, 0), "frame_bytes_max") == 0)
        count++;
    else if (keywords != NULL && PyTuple_Size(keywords) > 0)
        count = 0;
    if (count != 4 && count != 5)
        return PyErr_Format(PyExc_TypeError, "encode_knl() takes type, flags, channel, payloads and frame_bytes_max");
    if (!read_kind(state, arguments, &frame) ||
        (count == 5 && !bridge_integer(state, arguments[4], "frame_bytes_max", UINT32_MAX, &frame_bytes_max)))
        return NULL;
    PyObject *payloads = plain_messages(arguments[3]);
    if (payloads == NULL)
        return NULL;
    Py_ssize_t total = knl_total(state, payloads, frame_bytes_max);
    PyObject *encoded = total < 0 ? NULL : PyBytes_FromStringAndSize(NULL, total);
    if (encoded != NULL)
        write_knl(&frame, payloads, (uint8_t *)PyBytes_AsString(encoded));
    Py_DECREF(payloads);
    return encoded;
}

PyDoc_STRVAR(knl_header_doc, "knl_header($module, type, flags, channel, payload, /)\n--\n\n"
                             "The header of a frame whose payload is sent by itself.");

static PyObject *knl_header(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    bridge_state *state = PyModule_GetState(module);
    uint8_t header[KF_KNL_HEADER_BYTES];
    bridge_bytes payload;
    kf_frame frame;

    if (count != 4)
        return PyErr_Format(PyExc_TypeError, "knl_header() takes 4 arguments, %zd given", count);
    if (!read_kind(state, arguments, &frame) || bridge_hold(&payload, arguments[3]) < 0)
        return NULL;
    bool fits = payload.size <= UINT32_MAX;
    if (fits) {
        frame.size = (uint32_t)payload.size;
        kf_knl_pack(&frame, payload.data, header);
    }
    bridge_drop(&payload);
    if (!fits)
        return bridge_raise(bridge_make_error(
            state, "unsendable_size",
            Py_BuildValue("KKs", (unsigned long long)payload.size, (unsigned long long)UINT32_MAX, "frame_bytes_max")));
    return PyBytes_FromStringAndSize((const char *)header, sizeof header);
}

PyDoc_STRVAR(measure_doc, "measure($module, messages, /)\n--\n\n"
                          "The sum of the messages' sizes, and the longest one's size.");

static PyObject *measure(PyObject *module, PyObject *messages)
{
    uint64_t total = 0, longest = 0; /* 64 bits hold the sum, also of one object very often */
    bridge_bytes bytes;
    (void)module;

    PyObject *fixed = is_plain(messages) ? Py_NewRef(messages) : PySequence_Tuple(messages);
    if (fixed == NULL)
        return NULL;
    for (Py_ssize_t i = 0, count = Py_SIZE(fixed); i < count; i++) {
        if (bridge_hold(&bytes, item_at(fixed, i)) < 0) {
            Py_DECREF(fixed);
            return NULL;
        }
        total += bytes.size;
        longest = bytes.size > longest ? bytes.size : longest;
        bridge_drop(&bytes);
    }
    Py_DECREF(fixed);
    return Py_BuildValue("KK", (unsigned long long)total, (unsigned long long)longest);
}

PyDoc_STRVAR(crc32_doc, "crc32($module, data, value=0, /)\n--\n\nCRC-32 as zlib has it.");

static PyObject *crc32(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    bridge_bytes bytes;
    (void)module;

    if (count != 1 && count != 2)
        return PyErr_Format(PyExc_TypeError, "crc32() takes 1 or 2 arguments, %zd given", count);
    unsigned long value = count == 2 ? PyLong_AsUnsignedLongMask(arguments[1]) : 0;
    if (PyErr_Occurred() || bridge_hold(&bytes, arguments[0]) < 0)
        return NULL;
    uint32_t crc = kf_crc32((uint32_t)value, bytes.data, bytes.size);
    bridge_drop(&bytes);
    return PyLong_FromUnsignedLong(crc);
}

static PyMethodDef functions[] = {
    {"encode_length", BRIDGE_FAST(encode_length), encode_length_doc},
    {"length_header", BRIDGE_FAST(length_header), length_header_doc},
    {"encode_knl", BRIDGE_FAST(encode_knl) | METH_KEYWORDS, encode_knl_doc},
    {"knl_header", BRIDGE_FAST(knl_header), knl_header_doc},
    {"measure", measure, METH_O, measure_doc},
    {"crc32", BRIDGE_FAST(crc32), crc32_doc},
    {NULL, NULL, 0, NULL},
};

int bridge_add_encoders(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
