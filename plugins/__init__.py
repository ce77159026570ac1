"""The services that come with the kernel, registered by entry points like anybody else's."""
