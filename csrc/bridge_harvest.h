/* Harvest: what one call of a decoder has found so far, and makes of it in the end.
 *
 * A list that grows costs as much as the bytes objects of short frames do. So the first batch of a chunk comes into a
 * list of the right length at once; of the frames before it, there is at most one: the one that the chunk before began.
 * KNL's frames come as runs, (type, flags, channel, payloads, their bytes), and the same holds for each one's payloads.
 */
#ifndef BRIDGE_HARVEST_H
#define BRIDGE_HARVEST_H

#include "bridge.h"

/* Zeroed, it is empty. */
typedef struct bridge_harvest {
    PyObject *frames;   /* a list; while that is NULL, */
    PyObject *first;    /* the only item, or NULL */
    PyObject *payloads; /* of the run that may go on, or NULL; and that run's: */
    kf_frame key;
    uint64_t payload_bytes;
} bridge_harvest;

/* Each takes what it is given; -1: an exception is set. A message or payload is a new reference, or NULL. */
int bridge_harvest_message(bridge_harvest *found, PyObject *message);
int bridge_harvest_slices(bridge_harvest *found, const uint8_t *data, const kf_slice *slices, size_t count);
int bridge_harvest_payload(bridge_harvest *found, const kf_frame *frame, PyObject *payload);
int bridge_harvest_frames(bridge_harvest *found, const uint8_t *data, const kf_frame *frames, size_t count);

/* All of it as a new list, or NULL with an exception set; it is empty then, or to be dropped. */
PyObject *bridge_harvest_finish(bridge_harvest *found);
void bridge_harvest_drop(bridge_harvest *found);

#endif
