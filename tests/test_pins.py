"""Pins: what is not as it was is not imported, whatever has changed."""

from __future__ import annotations

import base64
import hashlib
import sys
from pathlib import Path

import pytest
from distributions import install

from kernel import OptionError, PluginError
from kernel.config import Layer, merge, variables
from kernel.pins import Pin, parse, pin_of
from kernel.registry import SERVICES, Policy, Registry

MODULE = "pinned_module"
GOOD = """
from kernel import Service
class Good(Service):
    name = "good"
"""


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The RECORD of a distribution that is installed in tmp_path."""
    metadata = install(tmp_path, "good-dist", "2.1", {SERVICES: {"good": f"{MODULE}:Good"}}, {MODULE: GOOD})
    digest = base64.urlsafe_b64encode(hashlib.sha256(GOOD.encode()).digest()).rstrip(b"=").decode()
    path = metadata / "RECORD"
    path.write_text(f"{MODULE}.py,sha256={digest},{len(GOOD)}\n{metadata.name}/RECORD,,\n__pycache__/x.pyc,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    return path


def registry(record: Path, *pinned: Pin) -> Registry:
    return Registry(Policy(pinned=pinned), path=[str(record.parents[1])])


def pin(record: Path) -> Pin:
    [plugin] = registry(record).listing()
    found = pin_of(plugin)
    assert found is not None
    return found


def test_what_is_as_it_was_is_loaded(record: Path):
    assert registry(record, pin(record)).load(SERVICES, "good").name == "good"


def test_one_of_several_pins_is_enough_and_those_of_others_do_not_count(record: Path):
    others = [Pin("good-dist", "0" * 64), Pin("other-dist", "1" * 64)]
    assert registry(record, *others, pin(record)).load(SERVICES, "good").name == "good"
    assert registry(record, others[1]).load(SERVICES, "good").name == "good"


def test_a_pin_holds_however_the_name_is_written(record: Path):
    assert "plugins_pinned names" in refusal(record, Pin("Good_Dist", "0" * 64))


@pytest.mark.parametrize("entry", ["@good-dist", "@Good_Dist", "good@GOOD.dist"])
def test_a_distribution_is_denied_however_its_name_is_written(record: Path, entry: str):
    denied = Registry(Policy(denied=(entry,)), path=[str(record.parents[1])])
    with pytest.raises(PluginError, match="is not allowed here: plugins_denied names it"):
        denied.find(SERVICES, "good")
    allowed = Registry(Policy(allowed=(entry,)), path=[str(record.parents[1])])
    assert allowed.find(SERVICES, "good").name == "good"


def refusal(record: Path, pinned: Pin) -> str:
    found = registry(record, pinned)
    with pytest.raises(PluginError) as caught:
        found.load(SERVICES, "good")
    assert MODULE not in sys.modules
    assert found.verdict(found.listing()[0]) == str(caught.value)
    return str(caught.value)


def test_another_record_is_refused(record: Path):
    before = pin(record)
    record.write_text(record.read_text() + "new_file.py,sha256=abc,3\n")

    assert refusal(record, before) == (
        "the service 'good' of good-dist 2.1 is not used: its RECORD is not the one that plugins_pinned names: look at "
        "what has changed, then put the pin that `kernel plugins info good` shows into plugins_pinned"
    )


@pytest.mark.parametrize("change", ["edit", "delete"])
def test_a_file_that_is_not_as_its_record_says_is_refused(record: Path, change: str):
    module = record.parents[1] / f"{MODULE}.py"
    before = pin(record)
    if change == "edit":
        module.write_text(GOOD + "# changed\n")
    else:
        module.unlink()

    assert f"{MODULE}.py is not as its RECORD says" in refusal(record, before)


def test_what_has_no_record_cannot_be_pinned(record: Path):
    before = pin(record)
    record.unlink()

    assert "has no RECORD" in refusal(record, before)
    assert pin_of(registry(record).listing()[0]) is None


def test_a_pin_is_read_as_it_is_shown(record: Path):
    assert parse(str(pin(record))) == pin(record)


@pytest.mark.parametrize(
    "text", ["", "good-dist", "good-dist=sha256:12", f"=sha256:{'0' * 64}", f"d=sha256:{'X' * 64}"]
)
def test_what_is_no_pin_is_refused_where_it_is_set(text: str):
    assert parse(text) is None
    with pytest.raises(OptionError, match=r"config\.toml: 'plugins_pinned' holds '.*', which is no pin: write"):
        merge([Layer("config.toml", {"plugins_pinned": [text]})])


def test_pins_are_settings(record: Path):
    settings = merge(variables({"KERNEL_PLUGINS_PINNED": f"{pin(record)} other-dist=sha256:{'0' * 64}"}))
    assert settings.plugins_policy.pinned == (pin(record), Pin("other-dist", "0" * 64))
