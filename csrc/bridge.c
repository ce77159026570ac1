/* The module itself, its state, and what its rooms share. */
#include "bridge.h"

static int bridge_exec(PyObject *module)
{
    bridge_state *state = PyModule_GetState(module);
    state->errors = PyImport_ImportModule("kernel.framing.errors");
    state->release = PyUnicode_InternFromString("release");
    if (state->errors == NULL || state->release == NULL)
        return -1;
    if (bridge_add_landing(module) < 0 || bridge_add_decoders(module) < 0 || bridge_add_encoders(module) < 0 ||
        bridge_add_messages(module) < 0 || bridge_add_lanes(module) < 0 || bridge_add_accounts(module) < 0 || bridge_add_datagrams(module) < 0)
        return -1;
    return 0;
}

static int bridge_traverse(PyObject *module, visitproc visit, void *arg)
{
    bridge_state *state = PyModule_GetState(module);
    Py_VISIT(state->errors);
    Py_VISIT(state->release);
    Py_VISIT(state->decoder_type);
    Py_VISIT(state->landing_type);
    Py_VISIT(state->assembler_type);
    Py_VISIT(state->reassembly_type);
    Py_VISIT(state->lane_type);
    Py_VISIT(state->port_type);
    Py_VISIT(state->account_type);
    Py_VISIT(state->batches_type);
    Py_VISIT(state->layout);
    return 0;
}

static int bridge_clear(PyObject *module)
{
    bridge_state *state = PyModule_GetState(module);
    Py_CLEAR(state->errors);
    Py_CLEAR(state->release);
    Py_CLEAR(state->decoder_type);
    Py_CLEAR(state->landing_type);
    Py_CLEAR(state->assembler_type);
    Py_CLEAR(state->reassembly_type);
    Py_CLEAR(state->lane_type);
    Py_CLEAR(state->port_type);
    Py_CLEAR(state->account_type);
    Py_CLEAR(state->batches_type);
    Py_CLEAR(state->layout);
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)bridge_exec}, {0, NULL}};

PyModuleDef bridge_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "kernel._bridge",
    .m_doc = "The framing engine in C: see kernel.framing.native.",
    .m_size = sizeof(bridge_state),
    .m_slots = slots,
    .m_traverse = bridge_traverse,
    .m_clear = bridge_clear,
};

PyMODINIT_FUNC PyInit__bridge(void)
{
    return PyModuleDef_Init(&bridge_module);
}

int bridge_hold(bridge_bytes *bytes, PyObject *object)
{
    bytes->is_exported = !PyBytes_CheckExact(object);
    if (!bytes->is_exported) {
        bytes->data = (const uint8_t *)PyBytes_AsString(object);
        bytes->size = (size_t)Py_SIZE(object);
        return 0;
    }
    if (PyObject_GetBuffer(object, &bytes->buffer, PyBUF_SIMPLE) < 0)
        return -1;
    bytes->data = bytes->buffer.buf;
    bytes->size = (size_t)bytes->buffer.len;
    return 0;
}

void bridge_drop(bridge_bytes *bytes)
{
    if (bytes->is_exported)
        PyBuffer_Release(&bytes->buffer);
}

bool bridge_integer(bridge_state *state, PyObject *object, const char *name, uint64_t high, uint64_t *value)
{
    *value = PyLong_AsUnsignedLongLong(object);
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError))
            return false;
        PyErr_Clear();
    } else if (*value <= high) {
        return true;
    }
    bridge_raise(
        bridge_make_error(state, "out_of_range", Py_BuildValue("sOK", name, object, (unsigned long long)high)));
    return false;
}

static bool read_attribute(PyObject *object, const char *name, long long *value)
{
    PyObject *attribute = bridge_attribute(object, name);
    if (attribute == NULL)
        return false;
    *value = PyLong_AsLongLong(attribute);
    Py_DECREF(attribute);
    return !PyErr_Occurred();
}

static bool is_within(long long value, long long low, long long high)
{
    return low <= value && value <= high;
}

int bridge_length(PyObject *layout, kf_length *compiled)
{
    long long offset, width, is_little, is_signed, adjust, strip, frame_bytes_max;

    if (!read_attribute(layout, "offset", &offset) || !read_attribute(layout, "width", &width) ||
        !read_attribute(layout, "is_little", &is_little) || !read_attribute(layout, "signed", &is_signed) ||
        !read_attribute(layout, "adjust", &adjust) || !read_attribute(layout, "strip_bytes", &strip) ||
        !read_attribute(layout, "frame_bytes_max", &frame_bytes_max))
        return -1;
    bool is_width = width == 1 || width == 2 || width == 4 || width == 8;
    if (!is_width || !is_within(offset, 0, KF_LENGTH_HEADER_BYTES_MAX - width) ||
        !is_within(adjust, -((long long)1 << 31), (long long)1 << 31) || !is_within(strip, 0, (long long)1 << 41) ||
        !is_within(frame_bytes_max, 0, (long long)1 << 40)) {
        PyErr_SetString(PyExc_ValueError, "the layout has numbers that kernel.framing.Length would have refused");
        return -1;
    }
    kf_length_init(compiled, (uint32_t)offset, (uint32_t)width, is_little != 0, is_signed != 0, adjust, (uint64_t)strip,
                   (uint64_t)frame_bytes_max);
    return 0;
}

/* A length field's value plus its layout's adjustment, which may go beyond 64 bits. */
static PyObject *body_bytes(uint64_t length, int64_t adjust)
{
    PyObject *left = PyLong_FromUnsignedLongLong(length);
    PyObject *right = PyLong_FromLongLong(adjust);
    PyObject *sum = left != NULL && right != NULL ? PyNumber_Add(left, right) : NULL;
    Py_XDECREF(left);
    Py_XDECREF(right);
    return sum;
}

PyObject *bridge_attribute(PyObject *object, const char *name)
{
    PyObject *interned = PyUnicode_InternFromString(name);
    PyObject *attribute = interned == NULL ? NULL : PyObject_GetAttr(object, interned);
    Py_XDECREF(interned);
    return attribute;
}

PyObject *bridge_make_error(bridge_state *state, const char *name, PyObject *arguments)
{
    PyObject *make = arguments == NULL ? NULL : bridge_attribute(state->errors, name);
    PyObject *error = make == NULL ? NULL : PyObject_CallObject(make, arguments);
    Py_XDECREF(make);
    Py_XDECREF(arguments);
    return error;
}

PyObject *bridge_fault(bridge_state *state, const kf_fault *fault, const kf_length *layout)
{
    unsigned long long found = fault->found, expected = fault->expected;

    switch (fault->status) {
    case KF_NEGATIVE_LENGTH:
        return bridge_make_error(state, "negative_length", Py_BuildValue("(L)", (long long)fault->found));
    case KF_SHORT_LENGTH:
        return bridge_make_error(state, "short_length", Py_BuildValue("KK", found, expected));
    case KF_TOO_LARGE: {
        PyObject *size = body_bytes(fault->found, layout == NULL ? 0 : layout->adjust);
        return bridge_make_error(state, "frame_too_large", size == NULL ? NULL : Py_BuildValue("NK", size, expected));
    }
    case KF_BAD_VERSION:
        return bridge_make_error(state, "bad_version", Py_BuildValue("KK", found, expected));
    case KF_BAD_CHECKSUM:
        return bridge_make_error(state, "bad_checksum", Py_BuildValue("KK", expected, found));
    case KF_BAD_MAGIC:
        return bridge_make_error(state, "bad_magic", Py_BuildValue("KK", found, expected));
    case KF_TRUNCATED:
        return bridge_make_error(state, "short_packet", Py_BuildValue("KK", found, expected));
    default:
        return PyErr_Format(PyExc_SystemError, "framing fault %d has no words", (int)fault->status);
    }
}

PyObject *bridge_raise(PyObject *error)
{
    if (error != NULL)
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_XDECREF(error);
    return NULL;
}
