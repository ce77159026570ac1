"""The processes that start commands and outlive nothing: a keeper, and a supervisor for each command.

    server --request--> keeper --fork--> supervisor --fork, exec--> command --> its children, and theirs
           <-------orders, reports------------>

The server never forks. A keeper, a small Python process that has loaded nothing but this package, forks a supervisor
for each request, which takes less than a millisecond. The supervisor is the subreaper of its command: whatever the
command starts, also what called setsid or was orphaned, stays below it, so "no child left" means that nothing is left.
It ends that tree when the server says so, and when its orders end because the server is gone, however it
went. The keeper is a subreaper too, and ends what a supervisor that was killed has left behind.

Invariants: who is a subreaper reaps, so there are no zombies; nobody but the supervisor waits for a command; all
descriptors close on exec, a command gets three and no more.

This package runs without `site` and outside of the kernel's packages (`python -I -S`), so it imports the standard
library and itself only.
"""

from __future__ import annotations
