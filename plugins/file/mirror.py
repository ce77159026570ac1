"""The two directions of `kernel file sync`: plan, remove what is extra where that is asked for, move the rest."""

from __future__ import annotations

import os
from collections.abc import Callable

from .client import FileClient
from .download import Destination
from .errors import FileError
from .get import GetMover
from .messages import Policy
from .names import shown
from .progress import Progress
from .put import PutMover
from .sync import Plan, compare, local_entries, remote_entries, remove_local, walk
from .transfer import Item, Outcome, Skipped, move

Connect = Callable[[], FileClient]
_POLICY: Policy = "replace"


async def push(
    connect: Connect,
    local: str,
    remote: str,
    *,
    delete: bool,
    dry_run: bool,
    parallel: int,
    progress: Progress,
    outcome: Outcome,
) -> Plan:
    """Make the server's directory like the local one."""
    source, target = os.fsencode(local), os.fsencode(remote.strip("/"))
    ours = await local_entries(source, missing_ok=False)
    async with progress:
        async with connect() as files:
            plan = compare(ours, await remote_entries(files, target), source, target)
            if not delete:
                plan.extra = []
            if dry_run:
                return plan
            for name in plan.extra:
                try:
                    await files.remove(b"/".join(filter(None, (target, name))))
                except FileError as error:
                    outcome.failed(Skipped(name, error.kind, str(error)))
        policy: Policy = _POLICY if files.welcome.overwrite else "refuse"
        await move(walk(plan), PutMover(policy, progress), connect, parallel, progress, outcome)
    return plan


async def pull(
    connect: Connect,
    remote: str,
    local: str,
    *,
    delete: bool,
    dry_run: bool,
    parallel: int,
    progress: Progress,
    outcome: Outcome,
) -> Plan:
    """Make the local directory like the server's."""
    source, base = os.fsencode(remote.strip("/")), os.fsencode(local)
    async with progress:
        async with connect() as files:
            theirs = await remote_entries(files, source)
            if not theirs:
                await files.stat(source)  # it is missing, and not only empty: say so
        plan = compare(theirs, await local_entries(base, missing_ok=True), source, b"")
        if not delete:
            plan.extra = []
        if dry_run:
            return plan
        destination = Destination(base, _POLICY)
        try:
            for failure in remove_local(base, plan.extra):
                outcome.failed(failure)
            await move(walk(plan), GetMover(destination, progress), connect, parallel, progress, outcome)
        finally:
            destination.close()
    return plan


def lines(plan: Plan) -> list[str]:
    """What would be done, a line each."""
    moved = [f"+ {shown(item.target)}" for item in plan.moves if isinstance(item, Item) and item.size is not None]
    return [*moved, *(f"- {shown(name)}" for name in plan.extra)]
