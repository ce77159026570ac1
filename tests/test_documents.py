"""What the documents show does what they say."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import tomllib

import pytest
from documents import ROOT, blocks

from kernel import KIB, MIB, Limits
from kernel.config import Layer, Settings, merge

pytestmark = pytest.mark.any_engine


def run(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


def test_the_readmes_service_and_the_program_around_it_run():
    service, program, _ = blocks("README.md", "python")
    assert run(service + program) == "b'HELLO'\n"


def test_the_readmes_framing_example_runs():
    assert run(blocks("README.md", "python")[2]) == "b'hello'\nb'world'\n"


def test_the_readmes_entry_point_names_its_service():
    [declared] = blocks("README.md", "toml")
    assert tomllib.loads(declared)["project"]["entry-points"] == {"kernel.services": {"shout": "shout:Shout"}}


def test_the_configuration_file_is_right_and_shows_every_setting():
    every, tables = blocks("docs/operations.md", "toml")
    names = {field.name for field in dataclasses.fields(Settings)}
    assert names <= set(re.findall(r"^(?:# )?\[?(\w+)(?: =|\])", every, re.M))
    settings = merge([Layer("operations.md", tomllib.loads(every))])
    assert settings.limits.message_bytes_max == MIB
    assert merge([Layer("operations.md", tomllib.loads(tables))]).plugin == ("echo?mode=upper",)


def test_every_limit_is_documented_with_its_default():
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| [^|]+ \|$", (ROOT / "docs" / "limits.md").read_text(), re.M)
    defaults = {field.name: field.default for field in dataclasses.fields(Limits)}
    assert dict(rows) == {name: in_words(name, value) for name, value in defaults.items()}


def in_words(name: str, value: object) -> str:
    """A default as a person reads it: `64 KiB`, `10 s`, `1,000`."""
    if not isinstance(value, int | float):
        return "90 % of the descriptors, at most 10,000"
    if "_bytes" in name:
        return f"{value // MIB} MiB" if value >= MIB else f"{value // KIB} KiB"
    return f"{value:g} s" if "_seconds" in name and "per_second" not in name else f"{value:,}"


LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def test_every_link_leads_somewhere():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    links = [page.parent / link for page in pages for link in LINK.findall(page.read_text())]
    assert [link for link in links if not link.exists()] == []


@pytest.mark.parametrize("folder", ["docs", "docs/decisions"])
def test_every_page_is_listed(folder: str):
    listed = set(LINK.findall((ROOT / folder / "README.md").read_text()))
    assert {page.name for page in (ROOT / folder).glob("*.md")} - {"README.md"} <= listed
