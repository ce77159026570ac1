"""What perf says of libraries becomes shares by place, and nothing of it is lost."""

from __future__ import annotations

import pytest

from benchmarks import profile

REPORT = """
# Overhead  Shared Object
# ........  ..................................
#
    60.50%  [kernel.kallsyms]
    12.25%  libpython3.11.so.1.0
    10.00%  libc.so.6
     8.00%  loop.cpython-311-x86_64-linux-gnu.so
     5.00%  _framing.abi3.so
     2.25%  libcrypto.so.3
     1.50%  [vdso]
     0.50%  python3.11
"""


def test_each_library_has_its_place() -> None:
    assert profile.shares(REPORT) == {
        "operating system": 62.0,
        "libc": 10.0,
        "uvloop": 8.0,
        "csrc": 5.0,
        "interpreter": 15.0,
    }


def test_who_has_no_perf_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(SystemExit, match="perf is not installed"):
        profile.main()
