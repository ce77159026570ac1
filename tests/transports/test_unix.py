"""What is special about sockets in the file system; what all transports do is in the conformance suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernel import Server, StartError, dial
from kernel.errors import DialError


@pytest.mark.parametrize("option", ["user=nobody-here", "group=nobody-here", "user=1"])
async def test_a_socket_that_cannot_be_given_away_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", forbidden)
    with pytest.raises(StartError, match=r"there is no|only root may"):
        await Server(["echo"], [f"unix:{tmp_path}/k.sock?{option}"]).start()
    assert not os.listdir(tmp_path)


async def test_a_path_that_is_no_socket_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(DialError, match="this is no socket: check the path"):
        await dial(f"unix:{tmp_path}")
