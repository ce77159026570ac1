/* The bridge between the kf core and Python objects: the module kernel._bridge, within the limited API of 3.11.
 *
 * The core finds and places bytes; the bridge makes bytes objects of them, and exceptions of faults. Every entry
 * point is a builtin function or a method of a heap type, called with the GIL held, which it never gives up: a cffi
 * call would, and then wait for it beside a busy thread. All state is the module's own.
 */
#ifndef BRIDGE_H
#define BRIDGE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "kf.h"

typedef struct bridge_state {
    PyObject *errors;  /* the module kernel.framing.errors, which words all exceptions */
    PyObject *release; /* the name of a memoryview's method */
    PyTypeObject *decoder_type;
    PyTypeObject *landing_type;
    PyTypeObject *assembler_type;
    PyTypeObject *reassembly_type;
    PyTypeObject *lane_type;
    PyTypeObject *port_type;
    PyTypeObject *account_type;
    PyTypeObject *batches_type;
    PyObject *layout; /* the Length that was used last to encode, and what it says: */
    kf_length compiled;
    uint64_t body_min;   /* the bodies that it can carry: body_min bytes, */
    uint64_t body_count; /* and the body_count - 1 sizes that follow */
} bridge_state;

extern PyModuleDef bridge_module;

/* The two last-but-one fields of a PyMethodDef for a function of an argument array. */
#define BRIDGE_FAST(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL

/* A bytes-like object's bytes, for as long as it is held. */
typedef struct bridge_bytes {
    const uint8_t *data;
    size_t size;
    Py_buffer buffer; /* in use only if `is_exported` */
    bool is_exported;
} bridge_bytes;

int bridge_hold(bridge_bytes *bytes, PyObject *object);
void bridge_drop(bridge_bytes *bytes);

/* Converts to an integer from 0 to `high`; false: ValueError is set, which calls it `name`. */
bool bridge_integer(bridge_state *state, PyObject *object, const char *name, uint64_t high, uint64_t *value);

/* Fills in what a kernel.framing.Length says. */
int bridge_length(PyObject *layout, kf_length *compiled);

/* An attribute, its name interned: type caches hold on to the names that are looked up. */
PyObject *bridge_attribute(PyObject *object, const char *name);

/* The exception that the function `name` of kernel.framing.errors makes of `arguments`, a tuple that is given up, or
 * NULL with an exception set. */
PyObject *bridge_make_error(bridge_state *state, const char *name, PyObject *arguments);

/* The exception for a fault. `layout`: where the fault is one of a length layout. */
PyObject *bridge_fault(bridge_state *state, const kf_fault *fault, const kf_length *layout);

/* Sets an exception, which is given up; NULL: one is set. Returns NULL. */
PyObject *bridge_raise(PyObject *error);

/* A writable memoryview of `size` bytes of the bytes object `message`, from `start` on. */
PyObject *bridge_lend(bridge_state *state, PyObject *message, size_t start, size_t size);

/* What Decoder.wanted, filled and feed do, for whoever receives in C. `room`: where the next bytes of a frame of which
 * at least `least` are missing belong, good until Python code runs; NULL, and a size of 0: receive anywhere, and feed.
 * The frames are a new list. */
uint8_t *bridge_decoder_room(PyObject *decoder, size_t least, size_t *size);
PyObject *bridge_decoder_filled(PyObject *decoder, size_t nbytes);
PyObject *bridge_decoder_feed(PyObject *decoder, const uint8_t *data, size_t size);
bool bridge_decoder_failed(PyObject *decoder);

/* The numbers of a channel or a connection that its session and a lane share: kernel/session/account.py. */
typedef struct bridge_account {
    PyObject_HEAD long long receive_credit_bytes;
    long long ungranted_bytes;
    long long send_credit_bytes;
    long long arriving_bytes;
    long long arriving_rest_bytes;
    long long sending_rest_bytes;
    long long unfinished_bytes;
} bridge_account;

enum { BRIDGE_NOTHING = -1 };

/* The rooms of the bridge, each adding its types or functions to the module. */
int bridge_add_landing(PyObject *module);
int bridge_add_decoders(PyObject *module);
int bridge_add_encoders(PyObject *module);
int bridge_add_messages(PyObject *module);
int bridge_add_lanes(PyObject *module);
int bridge_add_accounts(PyObject *module);
int bridge_add_datagrams(PyObject *module);

#endif
