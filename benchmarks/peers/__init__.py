"""Echo servers of other projects, each written as its own users would write it well.

Every server is run as `python -m benchmarks.peers.NAME ADDRESS [--loop asyncio|uvloop]`, where ADDRESS is `tcp` or
`unix:PATH` (or `udp`), prints the endpoint that it has bound as its first line, and serves until it is killed.
"""
