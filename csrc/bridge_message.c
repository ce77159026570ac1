/* Messages in parts: Assembler (payloads in order), Reassembly (fragments in any order), and datagram packets. */
#include <string.h>

#include "bridge.h"

/* --- Assembler --------------------------------------------------------------------------------------------- */

typedef struct assembler {
    PyObject_HEAD bridge_state *state;
    PyObject *message;
    uint64_t total_bytes;
    uint64_t arrived;
} assembler;

static PyObject *new_assembler(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    bridge_state *state = PyModule_GetState(module);
    uint64_t total_bytes, message_bytes_max;

    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "assembler() takes 2 arguments, %zd given", count);
    if (!bridge_integer(state, arguments[1], "message_bytes_max", PY_SSIZE_T_MAX, &message_bytes_max) ||
        !bridge_integer(state, arguments[0], "total_bytes", UINT64_MAX, &total_bytes))
        return NULL;
    if (total_bytes > message_bytes_max)
        return bridge_raise(bridge_make_error(
            state, "message_too_large",
            Py_BuildValue("KK", (unsigned long long)total_bytes, (unsigned long long)message_bytes_max)));
    assembler *self = (assembler *)PyType_GenericAlloc(state->assembler_type, 0);
    if (self == NULL)
        return NULL;
    self->state = state;
    self->total_bytes = total_bytes;
    self->message = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)total_bytes);
    if (self->message == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

PyDoc_STRVAR(add_doc, "add($self, payload, /)\n--\n\nAppend a payload; return the message once it is whole.");

static PyObject *assembler_add(PyObject *object, PyObject *payload)
{
    assembler *self = (assembler *)object;
    bridge_bytes bytes;

    if (bridge_hold(&bytes, payload) < 0)
        return NULL;
    bool fits = bytes.size <= self->total_bytes - self->arrived;
    if (fits)
        kf_place((uint8_t *)PyBytes_AsString(self->message), self->total_bytes, 0, &self->arrived, bytes.data,
                 bytes.size);
    bridge_drop(&bytes);
    if (!fits)
        return bridge_raise(bridge_make_error(self->state, "message_overrun",
                                              Py_BuildValue("KK", (unsigned long long)self->arrived + bytes.size,
                                                            (unsigned long long)self->total_bytes)));
    return Py_NewRef(self->arrived == self->total_bytes ? self->message : Py_None);
}

static PyObject *get_missing_bytes(PyObject *object, void *ignored)
{
    assembler *self = (assembler *)object;
    (void)ignored;
    return PyLong_FromUnsignedLongLong(self->total_bytes - self->arrived);
}

static void assembler_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF(((assembler *)object)->message);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyMethodDef assembler_methods[] = {
    {"add", assembler_add, METH_O, add_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef assembler_attributes[] = {
    {"missing_bytes", get_missing_bytes, NULL, PyDoc_STR("Bytes of the message that haven't arrived."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot assembler_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("One message out of many payloads.")},
    {Py_tp_methods, assembler_methods},
    {Py_tp_getset, assembler_attributes},
    {Py_tp_dealloc, (void *)assembler_dealloc},
    {0, NULL},
};

static PyType_Spec assembler_spec = {
    .name = "kernel._bridge.Assembler",
    .basicsize = sizeof(assembler),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = assembler_slots,
};

/* --- Reassembly -------------------------------------------------------------------------------------------- */

typedef struct reassembly {
    PyObject_HEAD bridge_state *state;
    PyObject *message;
    kf_reassembly fragments; /* its `seen` is ours, its `message` is the bytes of ours */
} reassembly;

static PyObject *new_reassembly(PyObject *module, PyObject *const *arguments, Py_ssize_t nargs)
{
    bridge_state *state = PyModule_GetState(module);
    uint64_t count, message_bytes;

    if (nargs != 2)
        return PyErr_Format(PyExc_TypeError, "reassembly() takes 2 arguments, %zd given", nargs);
    if (!bridge_integer(state, arguments[0], "count", UINT16_MAX, &count) ||
        !bridge_integer(state, arguments[1], "message_bytes", UINT32_MAX, &message_bytes))
        return NULL;
    if (!kf_fragment_count_fits((uint16_t)count, (uint32_t)message_bytes))
        return bridge_raise(bridge_make_error(
            state, "bad_message", Py_BuildValue("KK", (unsigned long long)count, (unsigned long long)message_bytes)));
    reassembly *self = (reassembly *)PyType_GenericAlloc(state->reassembly_type, 0);
    if (self == NULL)
        return NULL;
    self->state = state;
    self->message = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)message_bytes);
    self->fragments.seen = PyMem_Calloc((size_t)count, 1);
    if (self->message == NULL || self->fragments.seen == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    self->fragments.message = (uint8_t *)PyBytes_AsString(self->message);
    self->fragments.message_bytes = (uint32_t)message_bytes;
    self->fragments.count = self->fragments.missing = (uint16_t)count;
    return (PyObject *)self;
}

PyDoc_STRVAR(place_doc, "place($self, index, fragment, /)\n--\n\n"
                        "Take a fragment; return how many are missing, or -1 if this one was there already.");

static PyObject *reassembly_place(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
    reassembly *self = (reassembly *)object;
    bridge_bytes fragment;
    uint64_t index;

    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "place() takes 2 arguments, %zd given", count);
    if (!bridge_integer(self->state, arguments[0], "index", UINT16_MAX, &index) ||
        bridge_hold(&fragment, arguments[1]) < 0)
        return NULL;
    kf_status status = kf_reassembly_place(&self->fragments, (uint16_t)index, fragment.data, fragment.size);
    bridge_drop(&fragment);
    if (status == KF_BAD_FRAGMENT)
        return bridge_raise(bridge_make_error(
            self->state, "bad_fragment",
            Py_BuildValue("KiKK", (unsigned long long)index, (int)self->fragments.count,
                          (unsigned long long)self->fragments.message_bytes, (unsigned long long)fragment.size)));
    return PyLong_FromLong(status == KF_OK ? self->fragments.missing : -1);
}

PyDoc_STRVAR(take_doc, "take($self, /)\n--\n\nThe message, once no fragment is missing.");

static PyObject *reassembly_take(PyObject *object, PyObject *ignored)
{
    reassembly *self = (reassembly *)object;
    (void)ignored;
    if (self->fragments.missing > 0)
        return bridge_raise(
            bridge_make_error(self->state, "unfinished", Py_BuildValue("(i)", (int)self->fragments.missing)));
    return Py_NewRef(self->message);
}

static void reassembly_dealloc(PyObject *object)
{
    reassembly *self = (reassembly *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF(self->message);
    PyMem_Free(self->fragments.seen);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyMethodDef reassembly_methods[] = {
    {"place", BRIDGE_FAST(reassembly_place), place_doc},
    {"take", reassembly_take, METH_NOARGS, take_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot reassembly_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("One message out of fragments that come in any order.")},
    {Py_tp_methods, reassembly_methods},
    {Py_tp_dealloc, (void *)reassembly_dealloc},
    {0, NULL},
};

static PyType_Spec reassembly_spec = {
    .name = "kernel._bridge.Reassembly",
    .basicsize = sizeof(reassembly),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = reassembly_slots,
};

/* --- Packets ----------------------------------------------------------------------------------------------- */

static PyObject *packet_error(bridge_state *state, const kf_fault *fault, const kf_packet *packet)
{
    if (fault->status == KF_BAD_FRAGMENT)
        return bridge_raise(bridge_make_error(state, "bad_fragment",
                                              Py_BuildValue("iiKK", (int)packet->index, (int)packet->count,
                                                            (unsigned long long)packet->message_bytes,
                                                            (unsigned long long)fault->found)));
    return bridge_raise(bridge_fault(state, fault, NULL));
}

PyDoc_STRVAR(parse_packet_doc, "parse_packet($module, data, /)\n--\n\nA packet's fields and its fragment.");

static PyObject *parse_packet(PyObject *module, PyObject *data)
{
    kf_packet packet;
    kf_fault fault;
    bridge_bytes bytes;
    PyObject *result = NULL;

    if (bridge_hold(&bytes, data) < 0)
        return NULL;
    kf_status status = kf_packet_parse(bytes.data, bytes.size, &packet, &fault);
    if (status == KF_OK)
        result = Py_BuildValue("iKkiiky#", (int)packet.kind, (unsigned long long)packet.connection,
                               (unsigned long)packet.sequence, (int)packet.index, (int)packet.count,
                               (unsigned long)packet.message_bytes, (const char *)bytes.data + KF_PACKET_HEADER_BYTES,
                               (Py_ssize_t)(bytes.size - KF_PACKET_HEADER_BYTES));
    bridge_drop(&bytes);
    return status == KF_OK ? result : packet_error(PyModule_GetState(module), &fault, &packet);
}

/* The packet for packet->index, a new reference. */
static PyObject *pack_packet(const kf_packet *packet, const uint8_t *message)
{
    uint32_t step = kf_fragment_bytes(packet->count, packet->message_bytes);
    uint32_t start = step * packet->index;
    uint32_t size = packet->message_bytes - start < step ? packet->message_bytes - start : step;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)KF_PACKET_HEADER_BYTES + size);

    if (bytes != NULL) {
        uint8_t *out = (uint8_t *)PyBytes_AsString(bytes);
        kf_packet_pack(packet, out);
        if (size > 0)
            memcpy(out + KF_PACKET_HEADER_BYTES, message + start, size);
    }
    return bytes;
}

static PyObject *pack_packets(kf_packet *packet, const uint8_t *message)
{
    PyObject *packets = PyList_New(packet->count);
    if (packets == NULL)
        return NULL;
    for (uint32_t index = 0; index < packet->count; index++) {
        packet->index = (uint16_t)index;
        PyObject *bytes = pack_packet(packet, message);
        if (bytes == NULL) {
            Py_DECREF(packets);
            return NULL;
        }
        PyList_SetItem(packets, (Py_ssize_t)index, bytes);
    }
    return packets;
}

/* Sets how many packets a message of `size` bytes takes; false with an exception set if too many. */
static bool count_packets(bridge_state *state, size_t size, uint64_t packet_bytes_max, kf_packet *packet)
{
    uint64_t room = packet_bytes_max - KF_PACKET_HEADER_BYTES;
    uint64_t limit = room > UINT32_MAX / UINT16_MAX ? UINT32_MAX : room * UINT16_MAX;

    if (size > limit) {
        bridge_raise(bridge_make_error(
            state, "unsendable_size",
            Py_BuildValue("KKs", (unsigned long long)size, (unsigned long long)limit, "65535 packets")));
        return false;
    }
    packet->message_bytes = (uint32_t)size;
    packet->count = size == 0 ? 1 : (uint16_t)((size - 1) / room + 1);
    return true;
}

PyDoc_STRVAR(pack_fragments_doc,
             "pack_fragments($module, kind, connection, sequence, message, packet_bytes_max, /)\n--\n\n"
             "The packets of a message.");

static PyObject *pack_fragments(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    bridge_state *state = PyModule_GetState(module);
    uint64_t kind, connection, sequence, packet_bytes_max;
    kf_packet packet;
    bridge_bytes message;
    PyObject *packets = NULL;

    if (count != 5)
        return PyErr_Format(PyExc_TypeError, "pack_fragments() takes 5 arguments, %zd given", count);
    if (!bridge_integer(state, arguments[0], "kind", UINT8_MAX, &kind) ||
        !bridge_integer(state, arguments[1], "connection", UINT64_MAX, &connection) ||
        !bridge_integer(state, arguments[2], "sequence", UINT32_MAX, &sequence) ||
        !bridge_integer(state, arguments[4], "packet_bytes_max", PY_SSIZE_T_MAX, &packet_bytes_max))
        return NULL;
    if (packet_bytes_max <= KF_PACKET_HEADER_BYTES)
        return bridge_raise(bridge_make_error(
            state, "no_room", Py_BuildValue("Ki", (unsigned long long)packet_bytes_max, KF_PACKET_HEADER_BYTES)));
    packet.kind = (uint8_t)kind;
    packet.connection = connection;
    packet.sequence = (uint32_t)sequence;
    if (bridge_hold(&message, arguments[3]) < 0)
        return NULL;
    if (count_packets(state, message.size, packet_bytes_max, &packet))
        packets = pack_packets(&packet, message.data);
    bridge_drop(&message);
    return packets;
}

static PyMethodDef functions[] = {
    {"assembler", BRIDGE_FAST(new_assembler),
     PyDoc_STR("assembler($module, total_bytes, message_bytes_max, /)\n--\n\n"
               "One message out of many payloads.")},
    {"reassembly", BRIDGE_FAST(new_reassembly),
     PyDoc_STR("reassembly($module, count, message_bytes, /)\n--\n\n"
               "One message out of fragments that come in any order.")},
    {"parse_packet", parse_packet, METH_O, parse_packet_doc},
    {"pack_fragments", BRIDGE_FAST(pack_fragments), pack_fragments_doc},
    {NULL, NULL, 0, NULL},
};

int bridge_add_messages(PyObject *module)
{
    bridge_state *state = PyModule_GetState(module);
    state->assembler_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &assembler_spec, NULL);
    state->reassembly_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &reassembly_spec, NULL);
    if (state->assembler_type == NULL || state->reassembly_type == NULL)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
