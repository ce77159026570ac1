/* Lane and Port: the short way of messages between a socket and its services, in one call of the event loop's.
 *
 *     readable -> recv -> decode -> on_messages(channel, messages) -> port.take ... -> encode -> send
 *
 * A lane stands for a connection, a port for one of its channels. They know the usual and nothing else: whatever is
 * unusual closes the lane and is told to its keeper, a Python object (kernel/lane.py), which goes on from exactly
 * there and opens it again when all that has passed. What is usual, and what it costs, is the session's: the lane does
 * what kernel/session/ does with such a frame, and tests/test_lane.py holds the two together.
 *
 * Invariants: `out` holds frames only while a read is being handled; their credit is spent. While the lane is open,
 * nothing that was to be sent before waits anywhere else; while a port is open, its session's stream is at rest. The
 * socket calls never wait, so the GIL is kept: giving it up and taking it back costs more, and beside a busy thread a
 * thousand times more.
 */
#ifndef BRIDGE_LANE_H
#define BRIDGE_LANE_H

#include "bridge_outgoing.h"

typedef struct bridge_lane {
    PyObject_HEAD bridge_state *state;
    int fd;
    bool is_knl;
    bool is_open;
    bool is_inside;     /* a handler runs */
    bool expects_large; /* the last read went into a frame's own buffer */
    PyObject *scratch_object; /* a memoryview of the loop's receive buffer: */
    uint8_t *scratch;
    size_t scratch_bytes;
    PyObject *decoder;
    PyObject *keeper;
    PyObject *ports;          /* by channel, if is_knl; else the only one */
    struct bridge_port *last; /* of the ports the one that had DATA last, or NULL */
    bridge_outgoing out;
    unsigned long long reads;
    kf_length layout; /* unless is_knl; and if it is: */
    uint32_t frame_bytes_max;
    uint16_t flags; /* of what we send */
    bridge_account *account;
    long long free_credit_bytes;
    long long channel_window_bytes;
    long long connection_window_bytes;
    long long message_bytes_max;
    long long unfinished_bytes_max;
} bridge_lane;

typedef struct bridge_port {
    PyObject_HEAD bridge_lane *lane;
    PyObject *channel;
    PyObject *on_messages;
    PyObject *on_piece; /* NULL: long messages are put together by the session */
    uint32_t number;
    char is_open; /* as Python's members want it */
    bridge_account *account;
} bridge_port;

enum { BRIDGE_MORE = 0x0001, BRIDGE_BEGIN = 0x0010, BRIDGE_DATA = 0, BRIDGE_CREDIT = 6 }; /* kernel/framing/knl.py */
enum { BRIDGE_PREFIX_BYTES = 8 };                                                         /* BEGIN's length */

/* Drops what the keeper answers to a call. False: it has raised. */
bool bridge_told(PyObject *answer);

/* Hands messages to the port's handler; they cost so much. False: an exception is set. */
bool bridge_port_deliver(bridge_port *port, PyObject *messages, long long cost);

/* Deals with runs as far as they are usual: from *at on they are not. A run of which a part is left is replaced by
 * that part. False: an exception is set. */
bool bridge_lane_take_runs(bridge_lane *lane, PyObject *runs, Py_ssize_t *at);

/* A port of a lane, or NULL with an exception set. on_piece may be None. */
bridge_port *bridge_make_port(bridge_lane *lane, uint32_t number, PyObject *account, PyObject *channel,
                              PyObject *on_messages, PyObject *on_piece);

/* Gives the peer credit for what was consumed on a port, once that is half a window. False: MemoryError is set. */
bool bridge_port_consumed(bridge_port *self, long long cost);

/* The peer gives credit; port: NULL for the connection. False: this is not for a lane to judge. */
bool bridge_lane_credited(bridge_lane *lane, bridge_port *port, const uint8_t *payload, size_t size);

int bridge_add_ports(PyObject *module);

#endif
