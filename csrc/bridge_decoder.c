/* LengthDecoder and KnlDecoder: one object, two layouts.
 *
 * A chunk goes through the stages that kernel/framing/pure/stream.py describes. The frame that straddles chunks is
 * received into a bytes object of its final size, which nobody else has seen yet; `wanted` lends its rest through a
 * Landing, an object that keeps those bytes alive for as long as any view of them exists.
 *
 * Invariants: `message` is set from the moment a header is whole until its frame is; only then `arrived` counts.
 * While Python code may run (an allocation can collect garbage, wording an error calls it), `is_busy` is set: nobody
 * can come in again. An exception in the middle of a chunk leaves it set, for the chunk's rest is lost.
 */
#include <assert.h>
#include <string.h>

#include "bridge_harvest.h"

enum { BATCH = 256 };

typedef struct decoder {
    PyObject_HEAD bridge_state *state; /* lives as long as the type */
    bool is_knl;
    bool is_busy;
    uint32_t header_bytes;
    uint32_t head_bytes; /* bytes of the header that have arrived */
    uint8_t head[KF_LENGTH_HEADER_BYTES_MAX];
    kf_length layout;         /* unless is_knl */
    uint32_t frame_bytes_max; /* if is_knl */
    kf_frame frame;           /* the unfinished one, if is_knl */
    uint64_t frame_bytes;
    uint64_t arrived;
    PyObject *message;
    uint64_t direct_bytes_min;
    PyObject *view; /* lent by `wanted` */
    size_t view_bytes;
    PyObject *error;
} decoder;

static uint64_t strip_of(const decoder *self)
{
    return self->is_knl ? KF_KNL_HEADER_BYTES : self->layout.strip;
}

static uint64_t pending(const decoder *self)
{
    return self->message == NULL ? self->head_bytes : self->arrived;
}

/* --- Stages of a chunk ------------------------------------------------------------------------------------- */

static void reset(decoder *self)
{
    self->head_bytes = 0;
    Py_CLEAR(self->message);
}

/* The stream is corrupt: nothing more comes out of it. */
static int fail(decoder *self, const kf_fault *fault)
{
    reset(self);
    self->error = bridge_fault(self->state, fault, self->is_knl ? NULL : &self->layout);
    return self->error == NULL ? -1 : 0;
}

static int scan_length(decoder *self, const uint8_t *data, size_t size, size_t *position, bridge_harvest *found)
{
    kf_slice slices[BATCH];
    kf_fault fault;

    do {
        size_t count = kf_length_scan(&self->layout, data, size, position, slices, BATCH, &fault);
        if (bridge_harvest_slices(found, data, slices, count) < 0)
            return -1;
    } while (fault.status == KF_FULL);
    return fault.status == KF_MORE ? 0 : fail(self, &fault);
}

static int scan_knl(decoder *self, const uint8_t *data, size_t size, size_t *position, bridge_harvest *found)
{
    kf_frame frames[BATCH];
    kf_fault fault;

    do {
        size_t count = kf_knl_scan(self->frame_bytes_max, data, size, position, frames, BATCH, &fault);
        if (bridge_harvest_frames(found, data, frames, count) < 0)
            return -1;
    } while (fault.status == KF_FULL);
    return fault.status == KF_MORE ? 0 : fail(self, &fault);
}

/* The header is whole: check it, and make room for the message. */
static int open_frame(decoder *self)
{
    kf_fault fault;
    kf_status status;

    if (self->is_knl) {
        status = kf_knl_open(self->frame_bytes_max, self->head, &self->frame, &fault);
        self->frame_bytes = (uint64_t)KF_KNL_HEADER_BYTES + self->frame.size;
    } else {
        status = kf_length_open(&self->layout, self->head, &self->frame_bytes, &fault);
    }
    if (status != KF_OK)
        return fail(self, &fault);

    uint64_t message_bytes = self->frame_bytes - strip_of(self);
    if (message_bytes > PY_SSIZE_T_MAX) {
        PyErr_NoMemory();
        return -1;
    }
    self->message = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)message_bytes);
    self->arrived = 0;
    return self->message == NULL ? -1 : 0;
}

static void place(decoder *self, const uint8_t *data, size_t size, size_t *position)
{
    uint8_t *message = (uint8_t *)PyBytes_AsString(self->message);
    *position +=
        kf_place(message, self->frame_bytes, strip_of(self), &self->arrived, data + *position, size - *position);
}

/* Hands the frame out if it is whole. */
static int settle(decoder *self, bridge_harvest *found)
{
    kf_fault fault;

    if (self->arrived < self->frame_bytes)
        return 0;
    PyObject *message = self->message;
    self->message = NULL;
    self->head_bytes = 0;
    if (!self->is_knl)
        return bridge_harvest_message(found, message);
    if (self->frame.flags & KF_KNL_CHECKSUM &&
        kf_knl_verify(self->head, (const uint8_t *)PyBytes_AsString(message), self->frame.size, &fault) != KF_OK) {
        Py_DECREF(message);
        return fail(self, &fault);
    }
    return bridge_harvest_payload(found, &self->frame, message);
}

/* Goes on with the unfinished frame, or begins one. */
static int resume(decoder *self, const uint8_t *data, size_t size, size_t *position, bridge_harvest *found)
{
    if (self->message == NULL) {
        size_t head_start = 0;
        size_t missing = self->header_bytes - self->head_bytes;
        size_t taken = missing < size - *position ? missing : size - *position;
        memcpy(self->head + self->head_bytes, data + *position, taken);
        self->head_bytes += (uint32_t)taken;
        *position += taken;
        if (self->head_bytes < self->header_bytes)
            return 0;
        if (open_frame(self) < 0)
            return -1;
        if (self->error != NULL)
            return 0;
        place(self, self->head, self->header_bytes, &head_start);
    }
    place(self, data, size, position);
    return settle(self, found);
}

static int take_chunk(decoder *self, const uint8_t *data, size_t size, bridge_harvest *found)
{
    size_t position = 0;

    if (size == 0) /* then `data` may be null */
        return 0;
    if (self->head_bytes > 0 && resume(self, data, size, &position, found) < 0)
        return -1;
    if (self->error != NULL || position == size)
        return 0;
    if ((self->is_knl ? scan_knl : scan_length)(self, data, size, &position, found) < 0)
        return -1;
    if (self->error != NULL || position == size)
        return 0;
    return resume(self, data, size, &position, found);
}

/* --- Calls from Python ------------------------------------------------------------------------------------- */

/* Takes back the view that was lent. Whoever exports it, or a slice of it, keeps what belongs to it: the Landing. */
static void release_view(decoder *self)
{
    PyObject *view = self->view;
    if (view == NULL)
        return;
    self->view = NULL;
    PyObject *result = PyObject_CallMethodObjArgs(view, self->state->release, NULL);
    if (result == NULL)
        PyErr_Clear();
    Py_XDECREF(result);
    Py_DECREF(view);
}

static PyObject *refuse_busy(void)
{
    PyErr_SetString(PyExc_RuntimeError, "the decoder is in use, or broke off in the middle of a chunk");
    return NULL;
}

/* Before a chunk: the decoder is the caller's alone, or an exception is set. */
static bool enter(decoder *self, bridge_harvest *found)
{
    memset(found, 0, sizeof *found);
    if (self->is_busy)
        return refuse_busy() != NULL;
    if (self->error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(self->error), self->error);
        return false;
    }
    return self->is_busy = true;
}

/* After it: the frames, or NULL with an exception set. */
static PyObject *leave(decoder *self, bridge_harvest *found, int result)
{
    PyObject *frames = result == 0 ? bridge_harvest_finish(found) : NULL;
    if (frames == NULL)
        bridge_harvest_drop(found);
    self->is_busy = frames == NULL;
    return frames;
}

PyObject *bridge_decoder_feed(PyObject *object, const uint8_t *data, size_t size)
{
    decoder *self = (decoder *)object;
    bridge_harvest found;

    if (!enter(self, &found))
        return NULL;
    release_view(self);
    return leave(self, &found, take_chunk(self, data, size, &found));
}

/* The rest of a frame, if that is at least so much, else 0. */
static size_t room_bytes(const decoder *self, uint64_t least)
{
    bool is_large = !self->is_busy && self->message != NULL && self->arrived >= strip_of(self) &&
                    self->frame_bytes - self->arrived >= least;
    return is_large ? (size_t)(self->frame_bytes - self->arrived) : 0;
}

uint8_t *bridge_decoder_room(PyObject *object, size_t least, size_t *size)
{
    decoder *self = (decoder *)object;

    *size = room_bytes(self, least);
    return *size == 0 ? NULL : (uint8_t *)PyBytes_AsString(self->message) + (self->arrived - strip_of(self));
}

PyObject *bridge_decoder_filled(PyObject *object, size_t nbytes)
{
    decoder *self = (decoder *)object;
    bridge_harvest found;

    if (!enter(self, &found))
        return NULL;
    assert(nbytes <= self->frame_bytes - self->arrived);
    release_view(self);
    self->arrived += nbytes;
    return leave(self, &found, settle(self, &found));
}

bool bridge_decoder_failed(PyObject *object)
{
    return ((decoder *)object)->error != NULL;
}

PyDoc_STRVAR(feed_doc, "feed($self, data, /)\n--\n\nTake what was received; return the frames it completes.");

static PyObject *decoder_feed(PyObject *object, PyObject *data)
{
    bridge_bytes bytes;

    if (bridge_hold(&bytes, data) < 0)
        return NULL;
    PyObject *frames = bridge_decoder_feed(object, bytes.data, bytes.size);
    bridge_drop(&bytes);
    return frames;
}

PyDoc_STRVAR(filled_doc,
             "filled($self, nbytes, /)\n--\n\nThat much was received into the view that wanted() gave last.");

static PyObject *decoder_filled(PyObject *object, PyObject *argument)
{
    decoder *self = (decoder *)object;

    Py_ssize_t nbytes = PyLong_AsSsize_t(argument);
    if (nbytes == -1 && PyErr_Occurred())
        return NULL;
    if (self->error == NULL && (self->view == NULL || nbytes < 0 || (size_t)nbytes > self->view_bytes))
        return PyErr_Format(PyExc_ValueError, "filled(%zd) without a view of that size from wanted()", nbytes);
    return bridge_decoder_filled(object, (size_t)nbytes);
}

PyDoc_STRVAR(wanted_doc, "wanted($self, /)\n--\n\nThe buffer of the large frame that is being received, or None.");

static PyObject *decoder_wanted(PyObject *object, PyObject *ignored)
{
    decoder *self = (decoder *)object;
    (void)ignored;

    size_t size = room_bytes(self, self->direct_bytes_min);
    if (size == 0)
        Py_RETURN_NONE;
    release_view(self);
    self->view_bytes = size;
    self->view = bridge_lend(self->state, self->message, (size_t)(self->arrived - strip_of(self)), size);
    return Py_XNewRef(self->view);
}

PyDoc_STRVAR(finish_doc, "finish($self, /)\n--\n\nThe stream has ended: sets `error` if it cut a frame off.");

static PyObject *decoder_finish(PyObject *object, PyObject *ignored)
{
    decoder *self = (decoder *)object;
    uint64_t pending_bytes = pending(self);
    (void)ignored;

    if (self->is_busy)
        return refuse_busy();
    if (self->error == NULL && pending_bytes > 0) {
        release_view(self);
        reset(self);
        self->error =
            bridge_make_error(self->state, "truncated", Py_BuildValue("(K)", (unsigned long long)pending_bytes));
        if (self->error == NULL)
            return NULL;
    }
    return PyList_New(0);
}

static PyObject *get_error(PyObject *object, void *ignored)
{
    decoder *self = (decoder *)object;
    (void)ignored;
    return Py_NewRef(self->error == NULL ? Py_None : self->error);
}

static PyObject *get_pending_bytes(PyObject *object, void *ignored)
{
    (void)ignored;
    return PyLong_FromUnsignedLongLong(pending((decoder *)object));
}

static PyObject *get_frame_bytes_max(PyObject *object, void *ignored)
{
    decoder *self = (decoder *)object;
    (void)ignored;
    return PyLong_FromUnsignedLongLong(self->is_knl ? self->frame_bytes_max : self->layout.frame_bytes_max);
}

static int set_frame_bytes_max(PyObject *object, PyObject *value, void *ignored)
{
    decoder *self = (decoder *)object;
    uint64_t limit, high = self->is_knl ? UINT32_MAX : (uint64_t)1 << 40;
    const kf_length *old = &self->layout;
    (void)ignored;

    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "frame_bytes_max can't be deleted");
        return -1;
    }
    if (!bridge_integer(self->state, value, "frame_bytes_max", high, &limit))
        return -1;
    if (self->is_knl)
        self->frame_bytes_max = (uint32_t)limit;
    else
        kf_length_init(&self->layout, old->offset, old->width, old->is_little, old->is_signed, old->adjust, old->strip,
                       limit);
    return 0;
}

static int decoder_traverse(PyObject *object, visitproc visit, void *arg)
{
    decoder *self = (decoder *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->message);
    Py_VISIT(self->view);
    Py_VISIT(self->error);
    return 0;
}

static int decoder_clear(PyObject *object)
{
    decoder *self = (decoder *)object;
    reset(self);
    Py_CLEAR(self->view);
    Py_CLEAR(self->error);
    return 0;
}

static void decoder_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    decoder_clear(object);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyMethodDef decoder_methods[] = {
    {"feed", decoder_feed, METH_O, feed_doc},
    {"filled", decoder_filled, METH_O, filled_doc},
    {"wanted", decoder_wanted, METH_NOARGS, wanted_doc},
    {"finish", decoder_finish, METH_NOARGS, finish_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef decoder_attributes[] = {
    {"error", get_error, NULL, PyDoc_STR("Why the stream is corrupt, or None."), NULL},
    {"pending_bytes", get_pending_bytes, NULL, PyDoc_STR("Bytes of an unfinished frame that have arrived."), NULL},
    {"frame_bytes_max", get_frame_bytes_max, set_frame_bytes_max,
     PyDoc_STR("The limit, for frames whose header is still to come."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot decoder_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Bytes in, whole frames out.")},
    {Py_tp_methods, decoder_methods},
    {Py_tp_getset, decoder_attributes},
    {Py_tp_traverse, (void *)decoder_traverse},
    {Py_tp_clear, (void *)decoder_clear},
    {Py_tp_dealloc, (void *)decoder_dealloc},
    {0, NULL},
};

static PyType_Spec decoder_spec = {
    .name = "kernel._bridge.Decoder",
    .basicsize = sizeof(decoder),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = decoder_slots,
};

/* A decoder at the start of a stream, its layout not yet set. */
static decoder *new_decoder(PyObject *module, PyObject *direct_bytes_min)
{
    bridge_state *state = PyModule_GetState(module);
    uint64_t least;

    if (!bridge_integer(state, direct_bytes_min, "direct_bytes_min", UINT64_MAX, &least))
        return NULL;
    decoder *self = (decoder *)PyType_GenericAlloc(state->decoder_type, 0);
    if (self != NULL) {
        self->state = state;
        self->direct_bytes_min = least;
    }
    return self;
}

PyDoc_STRVAR(length_decoder_doc,
             "length_decoder($module, layout, direct_bytes_min, /)\n--\n\nA decoder of a kernel.framing.Length.");

static PyObject *length_decoder(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "length_decoder() takes 2 arguments, %zd given", count);
    decoder *self = new_decoder(module, arguments[1]);
    if (self == NULL)
        return NULL;
    if (bridge_length(arguments[0], &self->layout) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    self->header_bytes = self->layout.offset + self->layout.width;
    return (PyObject *)self;
}

PyDoc_STRVAR(knl_decoder_doc,
             "knl_decoder($module, layout, direct_bytes_min, /)\n--\n\nA decoder of a kernel.framing.Knl.");

static PyObject *knl_decoder(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "knl_decoder() takes 2 arguments, %zd given", count);
    decoder *self = new_decoder(module, arguments[1]);
    if (self == NULL)
        return NULL;
    self->is_knl = true;
    self->header_bytes = KF_KNL_HEADER_BYTES;
    PyObject *limit = bridge_attribute(arguments[0], "frame_bytes_max");
    if (limit == NULL || set_frame_bytes_max((PyObject *)self, limit, NULL) < 0)
        Py_CLEAR(self);
    Py_XDECREF(limit);
    return (PyObject *)self;
}

static PyMethodDef functions[] = {
    {"length_decoder", BRIDGE_FAST(length_decoder), length_decoder_doc},
    {"knl_decoder", BRIDGE_FAST(knl_decoder), knl_decoder_doc},
    {NULL, NULL, 0, NULL},
};

int bridge_add_decoders(PyObject *module)
{
    bridge_state *state = PyModule_GetState(module);
    state->decoder_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &decoder_spec, NULL);
    if (state->decoder_type == NULL)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
