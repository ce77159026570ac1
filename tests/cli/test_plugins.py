"""`kernel plugins info`, and what the configuration says of plugins, as a person meets it on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from distributions import install

Run = Callable[..., tuple[int, str, str]]

SERVICE = '''
from dataclasses import dataclass
from typing import Annotated, Literal
from kernel import Dialect, Meta, Needs, Service

@dataclass(frozen=True)
class WaveOptions:
    hands: Annotated[int, Meta(ge=1, le=2, description="how many")] = 2
    way: Literal["left", "right"] | None = None

class Wave(Service):
    """Waves back.

    At length.
    """
    name = "wave"
    needs = Needs(reliable=True, message_bytes_min=2000)
    Options = WaveOptions
    dialects = {"typed": Dialect({"framing": "line"}, "whoever has nc")}
'''


@pytest.fixture
def wave(environ: dict[str, str]) -> Path:
    """The place of a distribution with a service `wave`."""
    place = Path(environ["PYTHONPATH"])
    entry_points = {"kernel.services": {"wave": "wave_module:Wave"}, "kernel.commands": {"wave": "wave_module:nothing"}}
    install(place, "wave-dist", "0.7", entry_points, {"wave_module": SERVICE})
    return place


def info(kernel: Run, *arguments: str, **variables: str) -> tuple[int, list[dict[str, Any]]]:
    code, out, _ = kernel("plugins", "info", *arguments, "--json", **variables)
    return code, json.loads(out)


def test_a_service_says_all_that_it_is(kernel: Run, wave: Path):
    code, [found] = info(kernel, "wave", "--kind", "service")

    assert code == 0
    assert {name: found[name] for name in ("kind", "distribution", "version", "object", "api_version", "help")} == {
        "kind": "service",
        "distribution": "wave-dist",
        "version": "0.7",
        "object": "wave_module:Wave",
        "api_version": 1,
        "help": "Waves back.",
    }
    assert found["path"].startswith(str(wave))
    assert found["needs"]["reliable"] is True
    assert found["needs"]["message_bytes_min"] == 2000
    assert found["dialects"] == [{"name": "typed", "help": "whoever has nc", "options": {"framing": "line"}}]
    assert found["options"] == [
        {"name": "hands", "type": "int >=1 <=2", "default": "2", "help": "how many"},
        {"name": "way", "type": "left|right", "default": "", "help": ""},
    ]


def test_people_get_the_same_as_lines(kernel: Run, wave: Path):
    code, out, _ = kernel("plugins", "info", "wave", "--kind", "service")

    assert code == 0
    assert out.startswith(f"service wave\n  Waves back.\n  from      wave-dist 0.7 ({wave}")
    assert "  needs     reliable, message bytes min 2,000\n" in out
    assert "    hands  int >=1 <=2  how many [2]\n    way    left|right\n" in out
    assert out.endswith("    typed  whoever has nc\n")


def test_a_transport_says_what_it_gives(kernel: Run):
    _, [found] = info(kernel, "udp")
    assert found["capabilities"]["preserves_messages"] is True
    assert found["capabilities"]["reliable"] is False
    assert {"name": "packet_bytes_max", "type": "int >=512 <=65507", "default": "1200"}.items() <= found["options"][
        1
    ].items()


def test_a_framing_says_what_it_keeps(kernel: Run):
    _, [found] = info(kernel, "line")
    assert (found["kind"], found["api_version"], found["distribution"]) == ("framing", 1, "transport-kernel")
    assert (found["channels"], found["keeps_messages"]) == (False, True)
    assert found["options"][0] == {
        "name": "line_bytes_max",
        "type": "int",
        "default": "65536",
        "help": "longest line, its end not counted",
    }
    _, [found] = info(kernel, "knl")
    assert found["channels"] is True
    _, [found] = info(kernel, "raw")
    assert (found["keeps_messages"], found["options"]) == (False, [])


def test_a_layer_and_a_command_say_what_they_are(kernel: Run):
    _, [found] = info(kernel, "chaos")
    assert found["kind"] == "layer"
    assert {"name", "type", "default", "help"} == set(found["options"][0])
    assert {"loss", "seed"} <= {option["name"] for option in found["options"]}
    _, [found] = info(kernel, "echo", "--kind", "command")
    assert (found["kind"], found["refused"]) == ("command", None)
    assert found["help"]
    assert found["version"]
    assert Path(found["path"]).exists()


@pytest.mark.parametrize("name", ["tcp", "unix", "fd", "sim", "tls", "chaos", "knl", "raw", "line", "length", "echo"])
def test_every_builtin_explains_itself_and_each_of_its_options(kernel: Run, name: str):
    code, found = info(kernel, name)

    assert code == 0
    for facts in found:
        assert facts["help"]
        assert [option["name"] for option in facts.get("options", ()) if not option["help"]] == []


def test_all_of_one_name_are_shown_and_what_is_broken_says_why(kernel: Run, wave: Path):
    code, found = info(kernel, "wave")

    assert code == 1
    assert {facts["kind"]: facts["refused"] for facts in found} == {
        "service": None,
        "command": "the command 'wave' of wave-dist 0.7 is broken: AttributeError: module 'wave_module' has no "
        "attribute 'nothing'",
    }


def test_what_is_denied_is_not_imported_to_be_shown(kernel: Run, wave: Path):
    (wave / "wave_module.py").write_text("raise SystemExit('imported')")
    code, [found] = info(kernel, "wave", "--kind", "service", KERNEL_PLUGINS_DENIED="wave")
    assert code == 1
    assert found["refused"].endswith("is not allowed here: plugins_denied names it")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wav"], "there is no plugin 'wav': did you mean 'wave'?"),
        (["zzzz"], "there is no plugin 'zzzz': `kernel plugins list` shows what is installed"),
        (["wave", "--kind", "layer"], "there is no layer 'wave': `kernel plugins list` shows what is installed"),
        ([""], "NAME is empty: `kernel plugins list` shows the names"),
    ],
)
def test_mistakes_are_told_in_one_line(kernel: Run, wave: Path, arguments: list[str], message: str):
    assert kernel("plugins", "info", *arguments) == (2, "", f"kernel: error: {message}\n")


def test_a_denied_command_is_not_run(kernel: Run):
    code, _, err = kernel("echo", "--help", KERNEL_PLUGINS_DENIED="@transport-kernel")
    assert code == 2
    assert err.startswith("kernel: error: the command 'echo' of transport-kernel")


def test_a_pinned_plugin_that_has_changed_is_not_served(kernel: Run, wave: Path):
    pin = f"wave-dist=sha256:{'0' * 64}"
    code, _, err = kernel("serve", "--plugin", "wave", "--listen", "tcp://127.0.0.1:0", KERNEL_PLUGINS_PINNED=pin)
    assert code == 2
    assert "the service 'wave' of wave-dist 0.7 is not used: it has no RECORD" in err
