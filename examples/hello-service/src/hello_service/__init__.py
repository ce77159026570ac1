"""A service and a transport for kernel, as a distribution of their own."""
