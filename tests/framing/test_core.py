"""The C core by itself: its unit test in C, and how Python reaches it through cffi."""

import shutil
import subprocess
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wpedantic", "-Wcast-qual", "-Werror"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

compilers = [compiler for compiler in ("gcc", "clang") if shutil.which(compiler)]
pytestmark = pytest.mark.skipif(not (ROOT / "csrc").is_dir(), reason="needs the C sources")


def can_sanitize(compiler: str, directory: Path) -> bool:
    source = directory / "empty.c"
    source.write_text("int main(void) { return 0; }\n")
    build = subprocess.run([compiler, *SANITIZERS, source, "-o", directory / "empty"], capture_output=True)
    return build.returncode == 0


@pytest.mark.parametrize("compiler", compilers)
def test_unit_test_in_c(compiler: str, tmp_path: Path) -> None:
    sources = [Path(__file__).with_name("test_kf.c"), *sorted((ROOT / "csrc").glob("kf_*.c"))]
    flags = ["-std=c11", "-O0", "-g", *WARNINGS, *(SANITIZERS if can_sanitize(compiler, tmp_path) else [])]
    program = tmp_path / "test_kf"
    build = subprocess.run(
        [compiler, *flags, f"-I{ROOT / 'csrc'}", *sources, "-o", program], capture_output=True, text=True, timeout=120
    )
    assert build.returncode == 0, build.stderr
    run = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (0, "0 failures\n"), run.stdout + run.stderr


def test_the_core_is_reached_through_cffi() -> None:
    framing = pytest.importorskip("kernel._framing", exc_type=ImportError)
    ffi, lib = framing.ffi, framing.lib
    layout, slices, fault = ffi.new("kf_length *"), ffi.new("kf_slice[4]"), ffi.new("kf_fault *")
    position = ffi.new("size_t *")
    lib.kf_length_init(layout, 0, 2, False, False, 0, 2, 1000)
    data = b"\0\3abc\0\0\0"
    with ffi.from_buffer(data) as view:
        assert lib.kf_length_scan(layout, ffi.cast("uint8_t *", view), len(data), position, slices, 4, fault) == 2
        assert lib.kf_crc32(0, view, len(data)) == zlib.crc32(data)
    assert [(slices[i].offset, slices[i].size) for i in range(2)] == [(2, 3), (7, 0)]
    assert (position[0], fault.status) == (7, lib.KF_MORE)
    assert lib.KF_KNL_HEADER_BYTES == 16
