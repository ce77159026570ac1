"""Which engine is used, and how that is said."""

import os
import subprocess
import sys

import pytest

from kernel import framing

OLD_MODULE = """
import importlib.machinery
class Old:
    def __init__(self, *arguments): pass
    def create_module(self, spec): return None
    def exec_module(self, module): pass
importlib.machinery.ExtensionFileLoader = Old
"""


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "KERNEL_FRAMING"} | variables
    return subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )


def test_both_engines_have_their_names(engine):
    assert framing.engine(engine.name) is engine
    assert framing.engine(engine) is engine
    assert framing.engine("auto").name in ("c", "python")


def test_python_can_be_asked_for():
    result = run("from kernel import framing; print(framing.engine_name())", KERNEL_FRAMING="python")
    assert (result.stdout, result.stderr) == ("python\n", "")


@pytest.mark.parametrize("value", ["auto", ""])
def test_c_is_the_default_where_it_was_built(value):
    try:
        expected = framing.engine("c").name
    except framing.EngineUnavailableError:
        expected = "python"
    result = run("from kernel import framing; print(framing.engine_name())", KERNEL_FRAMING=value)
    assert (result.stdout, result.stderr) == (f"{expected}\n", "")


def test_a_missing_c_engine_is_no_secret_when_asked_for_by_name():
    hidden = (
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'kernel._framing' else find(name, *rest)\n"
    )
    result = run(hidden + "import kernel.framing", KERNEL_FRAMING="c")
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert "EngineUnavailableError" in last
    assert "KERNEL_FRAMING=python" in last
    result = run(hidden + "from kernel import framing; print(framing.engine_name())")
    assert (result.stdout, result.stderr) == ("python\n", "")


def test_a_c_module_of_another_version_is_named_and_not_passed_over():
    pytest.importorskip("kernel.framing.native", exc_type=ImportError)
    for value in ("auto", "c"):
        result = run(OLD_MODULE + "import kernel.framing", KERNEL_FRAMING=value)
        last = result.stderr.strip().splitlines()[-1]
        assert "EngineUnavailableError: the C framing module is not of this kernel's version" in last
        assert "./dev setup" in last
    result = run(OLD_MODULE + "from kernel import framing; print(framing.engine_name())", KERNEL_FRAMING="python")
    assert (result.stdout, result.stderr) == ("python\n", "")


def test_what_is_wrong_with_the_engine_is_no_fault_of_the_program():
    """A person at the command line reads one line that says what to do."""
    pytest.importorskip("kernel.framing.native", exc_type=ImportError)
    for value, code in (("rust", 2), ("c", 3)):
        result = run(
            OLD_MODULE + "import sys\nfrom kernel.cli.root import run; sys.exit(run(['--version']))",
            KERNEL_FRAMING=value,
        )
        assert (result.returncode, result.stdout) == (code, "")
        assert result.stderr.startswith("kernel: error: ")
        assert len(result.stderr.splitlines()) == 1
        assert "please report it" not in result.stderr


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="no framing engine is called 'rust'; there are auto, c, python"):
        framing.engine("rust")
    result = run("import kernel.framing", KERNEL_FRAMING="rust")
    assert "KERNEL_FRAMING is 'rust', it must be one of auto, c, python" in result.stderr


def test_the_c_engine_is_loaded_without_cffi():
    framing_c = pytest.importorskip("kernel.framing.native", exc_type=ImportError)
    assert framing_c.ENGINE.name == "c"
    result = run("import sys; import kernel.framing.native; print([m for m in sys.modules if 'cffi' in m])")
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_the_functions_of_the_package_are_the_default_engines():
    engine = framing.engine()
    assert framing.encode_length is engine.encode_length
    assert framing.crc32 is engine.crc32
    assert type(framing.decoder(framing.Length())) is type(engine.decoder(framing.Length()))
    assert framing.decoder(framing.Knl(), "python").feed(framing.encode_knl(0, 0, 1, [b"x"])) == [(0, 0, 1, [b"x"], 1)]
