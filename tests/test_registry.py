"""Discovery: only what is named is imported, what is broken is named, two of one name are refused."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributions import install

from kernel.errors import BrokenPlugin, PluginError
from kernel.registry import COMMANDS, FRAMINGS, GROUPS, SERVICES, TRANSPORTS, Policy, Registry

GOOD = """
from kernel.api import Service
class Good(Service):
    name = "good"
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory on the import path whose modules are forgotten after the test."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_it_lists_what_the_standard_library_lists():
    expected = {(e.group, e.name, e.value) for g in GROUPS for e in importlib.metadata.entry_points(group=g)}

    found = {(p.group, p.name, f"{p.module}:{p.attribute}") for p in Registry().listing()}

    assert (TRANSPORTS, "tcp", "kernel.transports.tcp:Tcp") in found
    assert found == expected


def test_listing_imports_no_plugin_and_nothing_that_is_slow():
    script = (
        "import sys, kernel.registry as r; names = [p.name for p in r.Registry().listing(r.TRANSPORTS)]; "
        "assert 'tcp' in names; "
        "print(*[m for m in sys.modules if m.split('.')[0] in ('asyncio', 'logging', 'click', 'dataclasses')"
        " or m in ('importlib.metadata', 'kernel.api') or m.startswith(('kernel.transports', 'kernel.plugins'))])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "\n"


def test_a_plugin_is_loaded_from_its_distribution(place: Path):
    install(place, "good-dist", "2.1", {SERVICES: {"good": "good_module:Good"}}, {"good_module": GOOD})
    registry = Registry(path=[str(place)])

    assert registry.load(SERVICES, "good").name == "good"
    assert registry.load(SERVICES, "good") is registry.load(SERVICES, "good")
    [plugin] = registry.listing()
    assert (plugin.origin, plugin.kind) == ("good-dist 2.1", "service")


def test_entry_points_are_read_as_the_standard_library_reads_them(place: Path):
    metadata = install(place, "odd-dist")
    (metadata / "entry_points.txt").write_text(
        "# a comment\n[console_scripts]\nkernel.x = a:b\n[ kernel.services ]\n"
        "one=m:A\n  # another\ntwo.2 = m.n : A.B [extra]\n\n;three = m:C\nmodule = m\n[kernel.unheard]\nfour = m:D\n"
    )
    found = [(p.name, p.module, p.attribute) for p in Registry(path=[str(place)]).listing()]
    assert found == [("module", "m", ""), ("one", "m", "A"), ("two.2", "m.n", "A.B")]


def test_the_first_distribution_of_a_name_counts_as_it_does_for_imports(tmp_path: Path):
    for place, version, name in (("a", "1", "My.Dist"), ("b", "2", "my-dist")):
        install(tmp_path / place, name, version, {SERVICES: {"good": "m:Good"}})

    [plugin] = Registry(path=[str(tmp_path / "a"), str(tmp_path / "b")]).listing()

    assert plugin.version == "1"


def test_distributions_in_a_zip_archive_are_found(tmp_path: Path):
    metadata = install(tmp_path, "zipped", "3", {SERVICES: {"good": "m:Good"}})
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in metadata.iterdir():
            file.write(path, f"{metadata.name}/{path.name}")

    [plugin] = Registry(path=[str(archive)]).listing()

    assert (plugin.name, plugin.origin) == ("good", "zipped 3")


def test_a_path_entry_that_is_not_there_is_passed_over(tmp_path: Path):
    assert Registry(path=[str(tmp_path / "nowhere"), ""]).listing(COMMANDS) is not None


@pytest.mark.parametrize(
    ("group", "name", "message"),
    [
        (SERVICES, "ehco", "there is no service 'ehco': did you mean 'echo'?"),
        (FRAMINGS, "zzz", "there is no framing 'zzz': installed: line, raw"),
        (TRANSPORTS, "tcp", "there is no transport 'tcp': no transport is installed"),
    ],
)
def test_an_unknown_name_is_answered_with_what_was_meant(tmp_path: Path, group: str, name: str, message: str):
    install(tmp_path, "d", entry_points={SERVICES: {"echo": "m:E"}, FRAMINGS: {"raw": "m:R", "line": "m:L"}})

    with pytest.raises(PluginError) as caught:
        Registry(path=[str(tmp_path)]).load(group, name)

    assert str(caught.value) == message


def test_two_plugins_of_one_name_are_refused_and_both_are_named(tmp_path: Path):
    for name in ("one-dist", "two-dist"):
        install(tmp_path, name, entry_points={SERVICES: {"echo": "m:E"}, COMMANDS: {name: "m:C"}})
    registry = Registry(path=[str(tmp_path)])

    with pytest.raises(PluginError) as caught:
        registry.load(SERVICES, "echo")

    assert str(caught.value) == (
        "the service 'echo' is brought by one-dist 1.0 and two-dist 1.0: "
        'uninstall one, or deny one by plugins_denied = ["echo@two-dist"]'
    )
    assert registry.find(COMMANDS, "one-dist").distribution == "one-dist"
    denied = Registry(Policy(denied=("echo@two-dist",)), path=[str(tmp_path)])
    assert denied.find(SERVICES, "echo").distribution == "one-dist"


BROKEN = {
    "raises": ("raise RuntimeError('a\\nb')", "RuntimeError: a b"),
    "imports": ("import a_module_that_nobody_has", "ModuleNotFoundError: No module named 'a_module_that_nobody_has'"),
    "exits": ("raise SystemExit(3)", "SystemExit: 3"),
    "syntax": ("def", "SyntaxError: invalid syntax (syntax.py, line 1)"),
    "absent": ("", "AttributeError: module 'absent' has no attribute 'Good'"),
    "other": ("class Good: pass", "other:Good is not a class derived from kernel.api.Service"),
    "instance": ("Good = 3", "instance:Good is not a class derived from kernel.api.Service"),
    "old": (
        GOOD + "    api_version = 0",
        "it was written for API version 0, and this kernel serves 1 and later: update it",
    ),
    "new": (
        GOOD + "    api_version = 99",
        "it was written for API version 99, and this kernel knows 1: update transport-kernel",
    ),
    "text": (GOOD + "    api_version = '1'", "its api_version is '1', not a whole number"),
}


@pytest.mark.parametrize("module", BROKEN)
def test_a_broken_plugin_is_named_with_its_distribution_and_leaves_the_others_alone(place: Path, module: str):
    source, fault = BROKEN[module]
    entries = {"bad": f"{module}:Good", "good": "good_module:Good"}
    install(place, "some-dist", "0.3", {SERVICES: entries}, {module: source, "good_module": GOOD})
    registry = Registry(path=[str(place)])

    with pytest.raises(PluginError) as caught:
        registry.load(SERVICES, "bad")

    assert str(caught.value) == f"the service 'bad' of some-dist 0.3 is broken: {fault}"
    assert registry.load(SERVICES, "good").name == "good"


HALF = """
from kernel.api import Service, Transport
class Half(Transport):
    def capabilities(self): ...
    def dial(self): ...
class Nameless(Service): ...
class Framing:
    name = "framing"
    def decoder(self): ...
"""


@pytest.mark.parametrize(
    ("group", "attribute", "fault"),
    [
        (TRANSPORTS, "Half", "half:Half does not define listen, name"),
        (SERVICES, "Nameless", "half:Nameless does not define name"),
        (FRAMINGS, "Framing", "half:Framing does not define api_version, channels, keeps_messages"),
        (COMMANDS, "Half", "half:Half is not a click command"),
        (TRANSPORTS, "Nameless", "half:Nameless is not a class derived from kernel.api.Transport"),
    ],
)
def test_each_kind_of_plugin_must_be_what_it_says(place: Path, group: str, attribute: str, fault: str):
    install(place, "d", "1.0", {group: {"x": f"half:{attribute}"}}, {"half": HALF})

    with pytest.raises(BrokenPlugin) as caught:
        Registry(path=[str(place)]).load(group, "x")

    assert str(caught.value).endswith(f"'x' of d 1.0 is broken: {fault}")


@pytest.mark.parametrize(
    ("policy", "refusal"),
    [
        (Policy(), ""),
        (Policy(allowed=("good",)), ""),
        (Policy(allowed=("@good-dist",)), ""),
        (Policy(allowed=("good@good-dist",)), ""),
        (Policy(allowed=("echo", "good@other")), "add 'good' to plugins_allowed"),
        (Policy(denied=("good",)), "plugins_denied names it"),
        (Policy(denied=("@good-dist",)), "plugins_denied names it"),
        (Policy(allowed=("good",), denied=("good@good-dist",)), "plugins_denied names it"),
    ],
)
def test_what_the_policy_denies_is_never_imported(tmp_path: Path, policy: Policy, refusal: str):
    install(tmp_path, "good-dist", entry_points={SERVICES: {"good": "m:Good"}})
    registry = Registry(policy, path=[str(tmp_path)])
    [plugin] = registry.listing()

    verdict = registry.verdict(plugin)

    assert verdict == (refusal and f"the service 'good' of good-dist 1.0 is not allowed here: {refusal}")
    if refusal:
        with pytest.raises(PluginError, match="is not allowed here"):
            registry.load(SERVICES, "good")


def test_a_layer_that_is_written_as_a_transport_is_told_to_be_one():
    with pytest.raises(PluginError, match=r"^'chaos' is a layer, around a transport: write chaos\+tcp://\.\.\.$"):
        Registry().find(TRANSPORTS, "chaos")
