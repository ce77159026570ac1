"""The C module that is built beside the package."""

import os
import zlib

import pytest


def test_the_packages_are_mapped_from_their_folders():
    import kernel.plugins
    import kernel.transports

    assert kernel.__doc__
    assert kernel.plugins.__doc__
    assert kernel.transports.__doc__


def test_the_c_module_is_there_where_it_is_required():
    if os.environ.get("KERNEL_REQUIRE_EXT") != "1":
        pytest.importorskip("kernel._framing", exc_type=ImportError)
    from kernel._framing import lib

    assert lib.kf_crc32(0, b"123456789", 9) == zlib.crc32(b"123456789")
