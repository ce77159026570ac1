"""`kernel doctor`: each thing that can be wrong is found, with its remedy, and nothing is changed."""

from __future__ import annotations

import json
import resource
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from distributions import install
from server_process import ServerProcess

from kernel import __version__
from kernel.cli import root

Run = Callable[..., tuple[int, str, str]]
Doctor = Callable[..., tuple[int, list[dict[str, str]]]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where distributions of a test are found, in this process too."""
    path = tmp_path / "empty"
    monkeypatch.syspath_prepend(path)
    return path


@pytest.fixture
def doctor(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Run it in this process; the exit code, and the findings. Unless told it looks where nobody else listens."""
    for name, value in environ.items():
        if name != "PYTHONPATH":
            monkeypatch.setenv(name, value)

    def run(*arguments: str, **variables: str) -> tuple[int, list[dict[str, str]]]:
        with monkeypatch.context() as patch:
            for name, value in ({"KERNEL_LISTEN": "tcp://127.0.0.1:0"} | variables).items():
                patch.setenv(name, value) if value else patch.delenv(name, raising=False)
            code = root.run(["doctor", "--json", *arguments])
        out, err = capsys.readouterr()
        assert err == ""
        return code, json.loads(out)

    return run


def only(findings: list[dict[str, str]], area: str) -> dict[str, str]:
    [finding] = [finding for finding in findings if finding["area"] == area]
    return finding


def not_ok(findings: list[dict[str, str]]) -> dict[str, str]:
    """The one finding that is not in order."""
    [finding] = [finding for finding in findings if finding["level"] != "ok" and finding["area"] != "descriptors"]
    assert finding["remedy"]
    return finding


def test_a_sound_installation_is_found_to_be_one(kernel: Run):
    code, out, err = kernel("doctor", KERNEL_LISTEN="tcp://127.0.0.1:0", PYTHONPATH="")
    assert (code, err) == (0, "")
    for area in ("engine", "settings", "plugins", "descriptors", "listeners"):
        assert f"  {area}  " in out.replace(area, f"{area} ", 1)
    assert "problem" not in out


def test_the_engine_is_told(kernel: Run):
    code, out, _ = kernel("doctor", KERNEL_FRAMING="python", PYTHONPATH="")
    assert (code, out.splitlines()[0]) == (
        0,
        f"ok       engine       kernel {__version__} frames in Python, as KERNEL_FRAMING says",
    )
    code, out, _ = kernel("doctor", KERNEL_FRAMING="fortran")
    assert (code, out.splitlines()[1].strip()) == (1, "remedy: unset KERNEL_FRAMING")


def test_a_mistake_in_the_settings_is_named(doctor: Doctor, tmp_path: Path):
    file = tmp_path / "server.toml"
    file.write_text("log_levl = 'info'")
    code, found = doctor("--config", str(file))
    assert code == 1
    assert not_ok(found) == {
        "area": "settings",
        "level": "problem",
        "what": f"{file} has no option 'log_levl'",
        "remedy": "did you mean 'log_level'?",
    }


BROKEN = {"kernel.services": {"new": "m_new:New", "gone": "m_gone:X"}}
NEW = "from kernel import Service\nclass New(Service):\n    name = 'new'\n    api_version = 99\n"


def test_plugins_that_are_broken_or_for_another_api_are_named(doctor: Doctor, place: Path):
    install(place, "some-dist", "0.3", BROKEN, {"m_new": NEW})

    code, found = doctor()

    assert code == 1
    problems = {f["what"]: f["remedy"] for f in found if f["level"] == "problem"}
    assert problems == {
        "the service 'new' of some-dist 0.3 is broken: it was written for API version 99, and this kernel knows 1: "
        "update transport-kernel": "pip install --upgrade some-dist, or tell its author; or uninstall it",
        "the service 'gone' of some-dist 0.3 is broken: ModuleNotFoundError: No module named 'm_gone'": "pip install "
        "--upgrade some-dist, or tell its author; or uninstall it",
    }
    code, found = doctor(KERNEL_PLUGINS_DENIED="@some-dist")
    assert code == 0


def test_two_plugins_of_one_name_are_named_once(doctor: Doctor, place: Path):
    for name in ("one-dist", "two-dist"):
        install(place, name, entry_points={"kernel.services": {"twice": "m:T"}})
    code, found = doctor()
    assert code == 1
    assert not_ok(found)["what"] == "the service 'twice' is brought by one-dist 1.0 and two-dist 1.0"


def test_a_hidden_command_is_named(doctor: Doctor, place: Path):
    source = "import click\n@click.command()\ndef serve(): pass\n"
    install(place, "some-dist", "0.3", {"kernel.commands": {"serve": "m_hidden:serve"}}, {"m_hidden": source})
    code, found = doctor()
    assert code == 0
    assert "is hidden by the kernel's own" in not_ok(found)["what"]


def test_services_that_the_settings_name_are_looked_at(doctor: Doctor):
    assert not_ok(doctor(KERNEL_PLUGIN="ehco")[1])["remedy"] == "did you mean 'echo'?"
    assert not_ok(doctor(KERNEL_PLUGIN="echo?moode=upper")[1])["remedy"] == "did you mean 'mode'?"


def test_a_stale_socket_is_found_and_left(doctor: Doctor, tmp_path: Path):
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    code, found = doctor(KERNEL_LISTEN=f"unix:{path}")
    assert code == 0
    assert not_ok(found)["what"] == f"unix:{path} is stale: nobody listens there any more"
    assert path.exists()


def test_the_default_places_are_looked_at(doctor: Doctor, tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "kernel.sock"))
    _, found = doctor(KERNEL_LISTEN="")
    listeners = [finding["what"] for finding in found if finding["area"] == "listeners"]
    assert listeners[0].startswith("tcp://127.0.0.1:7420 ") or "7420" in listeners[0]
    assert listeners[1] == f"unix:{tmp_path}/kernel.sock is stale: nobody listens there any more"


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: path.write_text("x"), "is a file, not a socket"),
        (lambda path: None, "is free"),
    ],
)
def test_other_things_where_a_socket_should_be(doctor: Doctor, tmp_path: Path, make: Any, what: str):
    make(tmp_path / "s")
    assert only(doctor(KERNEL_LISTEN=f"unix:{tmp_path}/s")[1], "listeners")["what"] == f"unix:{tmp_path}/s {what}"


def test_a_place_without_a_directory(doctor: Doctor, tmp_path: Path):
    assert not_ok(doctor(KERNEL_LISTEN=f"unix:{tmp_path}/no/s")[1])["remedy"] == f"mkdir {tmp_path}/no"


def test_a_busy_port_is_a_problem(doctor: Doctor):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        code, found = doctor(KERNEL_LISTEN=f"tcp://127.0.0.1:{port}")
    assert code == 1
    assert str(port) in not_ok(found)["what"]


@pytest.mark.parametrize("listen", ["tcp://127.0.0.1:0", "unix:{}/k.sock"])
def test_a_server_that_runs_is_none(doctor: Doctor, serve: Callable[..., ServerProcess], tmp_path: Path, listen: str):
    server = serve("--plugin", "echo", "--listen", listen.format(tmp_path))
    code, found = doctor(KERNEL_LISTEN=server.endpoints[0])
    assert code == 0
    assert "is served by a" in only(found, "listeners")["what"]


@pytest.mark.parametrize(
    ("listen", "remedy"),
    [
        ("tcp://127.0.0.1:0?backlog=lots", "write a whole number"),
        ("tpc://127.0.0.1:0", "did you mean 'tcp'?"),
        (
            "nonsense",
            "write scheme://address, for example tcp://127.0.0.1:7000, udp://[::1]:7000 or "
            "unix:/run/user/1000/kernel.sock",
        ),
        (
            "tcp://0.0.0.0:0",
            "add --secret-file FILE (`kernel keys new FILE` makes one) and write tls+tcp://, listen on "
            "127.0.0.1, or give --allow-insecure-network",
        ),
    ],
)
def test_an_endpoint_that_could_not_be_bound_says_why(doctor: Doctor, listen: str, remedy: str):
    code, found = doctor(KERNEL_LISTEN=listen)
    assert (code, not_ok(found)["remedy"]) == (1, remedy)


def test_files_of_keys_must_be_private(doctor: Doctor, kernel: Run, tmp_path: Path):
    key = tmp_path / "a.key"
    kernel("keys", "new", str(key))
    code, found = doctor(KERNEL_SECRET_FILE=str(key))
    assert (code, only(found, "keys")["level"]) == (0, "ok")

    key.chmod(0o644)
    code, found = doctor(KERNEL_SECRET_FILE=str(key))
    assert (code, not_ok(found)["remedy"]) == (1, f"chmod 600 {key}")
    key.write_text("nonsense")
    key.chmod(0o600)
    code, found = doctor(KERNEL_SECRET_FILE=str(key))
    assert (code, not_ok(found)["area"]) == (1, "keys")


def test_a_secret_in_the_environment_is_not_a_good_place(doctor: Doctor, kernel: Run, tmp_path: Path):
    kernel("keys", "new", str(tmp_path / "a.key"))
    code, found = doctor(KERNEL_SECRET=(tmp_path / "a.key").read_text())
    assert (code, not_ok(found)["level"]) == (0, "warning")


def test_a_private_key_of_a_listener_must_be_private(doctor: Doctor, tmp_path: Path):
    key = tmp_path / "tls.pem"
    key.write_text("")
    key.chmod(0o640)
    _, found = doctor(KERNEL_LISTEN=f"tls+tcp://127.0.0.1:0?cert={key}&key={key}")
    assert {f["remedy"] for f in found if f["area"] == "keys"} == {f"chmod 600 {key}"}


@pytest.mark.parametrize(("connections", "level"), [(90, "warning"), (200, "problem")])
def test_few_descriptors_are_told(monkeypatch: pytest.MonkeyPatch, doctor: Doctor, connections: int, level: str):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 4096))
    finding = only(doctor(KERNEL_LIMITS=f"connections_max={connections}")[1], "descriptors")
    assert finding["level"] == level
    assert finding["remedy"].startswith("ulimit -n 4096")


def test_people_see_remedies_and_may_ask_for_them_alone(kernel: Run, tmp_path: Path):
    code, out, _ = kernel("doctor", "-q", KERNEL_LISTEN=f"unix:{tmp_path}/no/s", PYTHONPATH="")
    assert code == 1
    lines = [line for line in out.splitlines() if "descriptors" not in line and "ulimit" not in line]
    assert lines == [
        f"problem  listeners    unix:{tmp_path}/no/s: there is no directory {tmp_path}/no",
        f"                      remedy: mkdir {tmp_path}/no",
    ]
