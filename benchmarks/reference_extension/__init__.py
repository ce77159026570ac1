"""A hand-written extension module, compiled when first needed: what our C engine is measured against."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from types import ModuleType

from benchmarks import native


def load() -> ModuleType:
    """The module `reference`: `Decoder` and `encode`."""
    here = Path(__file__).parent
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    flags = ("-shared", "-fPIC", "-Wno-missing-field-initializers", f"-I{sysconfig.get_path('include')}")
    path = native.program(f"reference{suffix}", [here / "reference.c"], here, flags)
    spec = importlib.util.spec_from_file_location("reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
