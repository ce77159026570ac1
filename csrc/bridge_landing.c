/* Landing: the owner of a view of a message that is still being received.
 *
 * A memoryview holds on to its owner, and the owner to the bytes object: whatever becomes of the view, of its slices,
 * of the decoder or of the message, the memory that it shows stays where it is.
 */
#include "bridge.h"

typedef struct landing {
    PyObject_HEAD PyObject *message;
    size_t start;
    size_t size;
} landing;

static int landing_export(PyObject *object, Py_buffer *buffer, int flags)
{
    landing *self = (landing *)object;
    return PyBuffer_FillInfo(buffer, object, PyBytes_AsString(self->message) + self->start, (Py_ssize_t)self->size, 0,
                             flags);
}

static void landing_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    Py_DECREF(((landing *)object)->message);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyType_Slot landing_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The rest of a frame, where it is received.")},
    {Py_bf_getbuffer, (void *)landing_export},
    {Py_tp_dealloc, (void *)landing_dealloc},
    {0, NULL},
};

static PyType_Spec landing_spec = {
    .name = "kernel._bridge.Landing",
    .basicsize = sizeof(landing),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = landing_slots,
};

PyObject *bridge_lend(bridge_state *state, PyObject *message, size_t start, size_t size)
{
    landing *self = (landing *)PyType_GenericAlloc(state->landing_type, 0);
    if (self == NULL)
        return NULL;
    self->message = Py_NewRef(message);
    self->start = start;
    self->size = size;
    PyObject *view = PyMemoryView_FromObject((PyObject *)self);
    Py_DECREF(self);
    return view;
}

int bridge_add_landing(PyObject *module)
{
    bridge_state *state = PyModule_GetState(module);
    state->landing_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &landing_spec, NULL);
    return state->landing_type == NULL ? -1 : 0;
}
