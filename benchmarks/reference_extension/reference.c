/*
 * What somebody would write by hand for exactly one layout: a 4-byte big-endian length, then the message. A plain
 * CPython extension module against the full API of one version, without options, limits or statistics.
 *
 *     Decoder().feed(data) -> list of messages          encode(messages) -> bytes
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

enum { HEADER_BYTES = 4 };

typedef struct {
    PyObject_HEAD
    uint8_t header[HEADER_BYTES];
    Py_ssize_t header_used;
    PyObject *message; /* being received, of its final size */
    Py_ssize_t message_used;
} Decoder;

static Py_ssize_t load(const uint8_t *p) {
    return (Py_ssize_t)((uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]);
}

static int append(PyObject *list, PyObject *message) {
    if (message == NULL) return -1;
    int outcome = PyList_Append(list, message);
    Py_DECREF(message);
    return outcome;
}

/* Goes on with the message under way; returns how much of the data it took, or -1. */
static Py_ssize_t fill(Decoder *self, PyObject *list, const uint8_t *data, Py_ssize_t size) {
    Py_ssize_t missing = PyBytes_GET_SIZE(self->message) - self->message_used;
    Py_ssize_t taken = size < missing ? size : missing;
    memcpy(PyBytes_AS_STRING(self->message) + self->message_used, data, (size_t)taken);
    self->message_used += taken;
    if (taken < missing) return taken;
    PyObject *message = self->message;
    self->message = NULL;
    return append(list, message) < 0 ? -1 : taken;
}

/* Takes bytes of a header; with the last of them the message begins. */
static Py_ssize_t begin(Decoder *self, PyObject *list, const uint8_t *data, Py_ssize_t size) {
    Py_ssize_t missing = HEADER_BYTES - self->header_used, taken = size < missing ? size : missing;
    memcpy(self->header + self->header_used, data, (size_t)taken);
    self->header_used += taken;
    if (taken < missing) return taken;
    self->header_used = self->message_used = 0;
    self->message = PyBytes_FromStringAndSize(NULL, load(self->header));
    if (self->message == NULL) return -1;
    return PyBytes_GET_SIZE(self->message) == 0 && fill(self, list, data, 0) < 0 ? -1 : taken;
}

static int decode(Decoder *self, PyObject *list, const uint8_t *data, Py_ssize_t size) {
    Py_ssize_t at = 0;
    while (at < size) {
        if (self->message == NULL && self->header_used == 0 && size - at >= HEADER_BYTES) {
            Py_ssize_t length = load(data + at);
            if (length <= size - at - HEADER_BYTES) {
                if (append(list, PyBytes_FromStringAndSize((const char *)data + at + HEADER_BYTES, length)) < 0) return -1;
                at += HEADER_BYTES + length;
                continue;
            }
        }
        Py_ssize_t taken = (self->message == NULL ? begin : fill)(self, list, data + at, size - at);
        if (taken < 0) return -1;
        at += taken;
    }
    return 0;
}

static PyObject *feed(PyObject *object, PyObject *data) {
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) return NULL;
    PyObject *list = PyList_New(0);
    if (list != NULL && decode((Decoder *)object, list, view.buf, view.len) < 0) Py_CLEAR(list);
    PyBuffer_Release(&view);
    return list;
}

static PyObject *encode(PyObject *module, PyObject *list) {
    (void)module;
    if (!PyList_Check(list)) return PyErr_Format(PyExc_TypeError, "a list of bytes is wanted");
    Py_ssize_t count = PyList_GET_SIZE(list), total = count * HEADER_BYTES;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!PyBytes_Check(PyList_GET_ITEM(list, i))) return PyErr_Format(PyExc_TypeError, "a list of bytes is wanted");
        total += PyBytes_GET_SIZE(PyList_GET_ITEM(list, i));
    }
    PyObject *encoded = PyBytes_FromStringAndSize(NULL, total);
    if (encoded == NULL) return NULL;
    char *out = PyBytes_AS_STRING(encoded);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *message = PyList_GET_ITEM(list, i);
        Py_ssize_t size = PyBytes_GET_SIZE(message);
        for (int byte = 0; byte < HEADER_BYTES; byte++) *out++ = (char)(size >> (24 - 8 * byte));
        memcpy(out, PyBytes_AS_STRING(message), (size_t)size);
        out += size;
    }
    return encoded;
}

static void decoder_dealloc(PyObject *object) {
    Py_XDECREF(((Decoder *)object)->message);
    Py_TYPE(object)->tp_free(object);
}

static PyMethodDef decoder_methods[] = {{"feed", feed, METH_O, NULL}, {NULL, NULL, 0, NULL}};

static PyTypeObject decoder_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "reference.Decoder",
    .tp_basicsize = sizeof(Decoder),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = decoder_dealloc,
    .tp_methods = decoder_methods,
};

static PyMethodDef functions[] = {{"encode", encode, METH_O, NULL}, {NULL, NULL, 0, NULL}};

static PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "reference", .m_size = -1, .m_methods = functions};

PyMODINIT_FUNC PyInit_reference(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL || PyType_Ready(&decoder_type) < 0) return NULL;
    Py_INCREF(&decoder_type);
    if (PyModule_AddObject(module, "Decoder", (PyObject *)&decoder_type) < 0) return NULL;
    return module;
}
