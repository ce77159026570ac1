"""What docs/framing.md shows does what it says."""

import shutil
import subprocess

import pytest
from documents import ROOT, blocks

PAGE = "docs/framing.md"


def test_the_examples_in_python_run():
    names: dict[str, object] = {}
    for block in blocks(PAGE, "python"):
        exec(compile(block, PAGE, "exec"), names)  # noqa: S102, our own page
    receiver = names["Receiver"](names["framing"].Length(frame_bytes_max=1 << 20))
    data = names["framing"].encode_length(names["framing"].Length(), [b"short", bytes(500_000)])
    while data:
        buffer = receiver.get_buffer(-1)
        nbytes = min(len(buffer), len(data))
        buffer[:nbytes] = data[:nbytes]
        receiver.buffer_updated(nbytes)
        data = data[nbytes:]
    assert receiver.messages == [b"short", bytes(500_000)]


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_example_in_c_runs(tmp_path):
    [block] = blocks(PAGE, "c")
    source, program = tmp_path / "example.c", tmp_path / "example"
    source.write_text(block)
    core = sorted((ROOT / "csrc").glob("kf_*.c"))
    subprocess.run(
        ["cc", "-std=c11", "-Wall", "-Werror", f"-I{ROOT / 'csrc'}", source, *core, "-o", program], check=True
    )
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == "hello\n"
