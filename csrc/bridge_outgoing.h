/* Outgoing: what one call is to send. Short messages are copied into one buffer, long ones stay where they are.
 *
 * Empty, it holds no memory but its own.
 */
#ifndef BRIDGE_OUTGOING_H
#define BRIDGE_OUTGOING_H

#include <sys/types.h>

#include "bridge.h"

/* A message that is sent from where it is, from `start` on, after the first `at` bytes of the buffer. */
typedef struct bridge_reference {
    PyObject *message;
    size_t start;
    size_t at;
} bridge_reference;

typedef struct bridge_outgoing {
    uint8_t *bytes;
    size_t used;
    size_t room;
    bridge_reference *references;
    size_t count;
    size_t total; /* bytes to send, those of the references too */
} bridge_outgoing;

/* How far it goes. */
typedef struct bridge_mark {
    size_t used;
    size_t count;
    size_t total;
} bridge_mark;

/* Messages of at least so many bytes are better not copied. */
enum { BRIDGE_REFERENCE_BYTES_MIN = 16384 };

/* Where the next `size` bytes are to be written; NULL: MemoryError is set. Good until the next call. */
uint8_t *bridge_outgoing_extend(bridge_outgoing *out, size_t size);

/* Sends `message`, bytes, from `start` on, behind what is there. False: MemoryError is set. */
bool bridge_outgoing_refer(bridge_outgoing *out, PyObject *message, size_t start);

/* Where it ends now; and give up whatever was put behind such a place. */
bridge_mark bridge_outgoing_mark(const bridge_outgoing *out);
void bridge_outgoing_rewind(bridge_outgoing *out, bridge_mark mark);

/* Sends it all, as far as the socket takes it without waiting; an error counts as nothing taken, and is met again by
 * whoever sends the rest. Returns how many bytes were sent. */
size_t bridge_outgoing_send(const bridge_outgoing *out, int fd);

/* All of it as a new list of bytes objects, or NULL with an exception set. */
PyObject *bridge_outgoing_list(const bridge_outgoing *out);

void bridge_outgoing_clear(bridge_outgoing *out);

#endif
