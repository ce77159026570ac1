"""A pluggable transport microkernel: write a service once, serve it over any transport."""
