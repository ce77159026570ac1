/* Account: the numbers that a session and a lane share. What they mean is written in kernel/session/account.py. */
#include "bridge.h"

#include <structmember.h>

#define NUMBER(name) {#name, T_LONGLONG, offsetof(bridge_account, name), 0, NULL}

static PyMemberDef account_members[] = {
    NUMBER(receive_credit_bytes),
    NUMBER(ungranted_bytes),
    NUMBER(send_credit_bytes),
    NUMBER(arriving_bytes),
    NUMBER(arriving_rest_bytes),
    NUMBER(sending_rest_bytes),
    NUMBER(unfinished_bytes),
    {NULL, 0, 0, 0, NULL},
};

static void account_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyType_Slot account_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The numbers that a session and a lane share.")},
    {Py_tp_members, account_members},
    {Py_tp_dealloc, (void *)account_dealloc},
    {0, NULL},
};

static PyType_Spec account_spec = {
    .name = "kernel._bridge.Account",
    .basicsize = sizeof(bridge_account),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = account_slots,
};

PyDoc_STRVAR(make_doc, "account($module, receive_credit_bytes, send_credit_bytes, /)\n--\n\nAn account of a channel or a "
                       "connection.");

static PyObject *make_account(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    bridge_state *state = PyModule_GetState(module);
    uint64_t receive_credit_bytes, send_credit_bytes;

    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "account() takes 2 arguments, %zd given", count);
    if (!bridge_integer(state, arguments[0], "receive_credit_bytes", INT64_MAX, &receive_credit_bytes) ||
        !bridge_integer(state, arguments[1], "send_credit_bytes", INT64_MAX, &send_credit_bytes))
        return NULL;
    bridge_account *self = (bridge_account *)PyType_GenericAlloc(state->account_type, 0);
    if (self == NULL)
        return NULL;
    self->receive_credit_bytes = (long long)receive_credit_bytes;
    self->send_credit_bytes = (long long)send_credit_bytes;
    self->arriving_bytes = self->sending_rest_bytes = BRIDGE_NOTHING;
    return (PyObject *)self;
}

static PyMethodDef functions[] = {
    {"account", BRIDGE_FAST(make_account), make_doc},
    {NULL, NULL, 0, NULL},
};

int bridge_add_accounts(PyObject *module)
{
    bridge_state *state = PyModule_GetState(module);
    state->account_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &account_spec, NULL);
    return state->account_type == NULL ? -1 : PyModule_AddFunctions(module, functions);
}
