"""Sans-I/O protocol state machines: bytes or packets in, events out, buffers to send. `base` is the interface."""
