"""Configuration: six layers, and a message that names the file and the key."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kernel.config import Layer, Settings, default_files, load, merge
from kernel.errors import OptionError, UsageError
from kernel.limits import Limits


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment whose user's file lies in `tmp_path`."""
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def write_user_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "kernel" / "config.toml"
    path.parent.mkdir()
    path.write_text(text)
    return path


def test_a_flag_goes_before_a_variable_before_the_files_before_the_default(tmp_path: Path, environ: dict[str, str]):
    write_user_file(tmp_path, 'log_level = "error"\nlog_format = "json"\nloop = "asyncio"\nready_file = "user"')
    chosen = tmp_path / "chosen.toml"
    chosen.write_text('log_level = "warning"\nlog_format = "text"\nloop = "uvloop"')
    environ |= {"KERNEL_LOG_LEVEL": "debug", "KERNEL_LOG_FORMAT": "json"}

    settings = load({"log_level": "info"}, environ, str(chosen))

    assert (settings.log_level, settings.log_format, settings.loop, settings.ready_file) == (
        "info",
        "json",
        "uvloop",
        "user",
    )
    assert settings.strict_plugins is False


def test_the_systems_file_comes_last_and_is_in_etc(environ: dict[str, str], tmp_path: Path):
    assert default_files(environ) == [tmp_path / "kernel" / "config.toml", Path("/etc/kernel/config.toml")]
    assert default_files({})[0] == Path.home() / ".config" / "kernel" / "config.toml"


def test_a_variable_can_name_the_file(tmp_path: Path, environ: dict[str, str]):
    path = tmp_path / "a.toml"
    path.write_text('listen = ["udp://[::1]:0"]')
    assert load({}, environ | {"KERNEL_CONFIG": str(path)}).listen == ("udp://[::1]:0",)


def test_lists_in_variables_are_separated_by_spaces(environ: dict[str, str]):
    environ |= {"KERNEL_LISTEN": "tcp://a:1  unix:/b", "KERNEL_PLUGIN": "echo", "KERNEL_STRICT_PLUGINS": "true"}
    settings = load({}, environ)
    assert settings.listen == ("tcp://a:1", "unix:/b")
    assert settings.plugin == ("echo",)
    assert settings.strict_plugins is True


def test_of_the_limits_a_higher_layer_replaces_those_that_it_names():
    settings = merge(
        [
            Layer("--limit", {"limits": {"frame_bytes_max": "1MiB"}}),
            Layer("file", {"limits": {"frame_bytes_max": 1, "drain_seconds_max": "500ms"}}),
        ]
    )
    assert settings.limits == Limits(frame_bytes_max=1 << 20, drain_seconds_max=0.5)


def test_endpoints_and_plugins_may_have_tables_of_options(tmp_path: Path, environ: dict[str, str]):
    write_user_file(
        tmp_path,
        """
        [[listen]]
        endpoint = "tcp://127.0.0.1:7000?backlog=5"
        framing = "line"
        nodelay = true
        [[listen]]
        endpoint = "unix:/run/k.sock"
        [plugin.echo]
        mode = "greeting"
        text = "a&b c"
        delay_seconds = 0.5
        [plugin.chat]
        """,
    )
    settings = load({}, environ)
    assert settings.listen == ("tcp://127.0.0.1:7000?backlog=5&framing=line&nodelay=true", "unix:/run/k.sock")
    assert settings.plugin == ("echo?mode=greeting&text=a%26b%20c&delay_seconds=0.5", "chat")


def test_every_setting_can_be_said_in_a_file(tmp_path: Path, environ: dict[str, str]):
    limits = "\n".join(f"{field.name} = 7" for field in dataclasses.fields(Limits))
    path = write_user_file(
        tmp_path,
        f"""
        plugin = ["echo?mode=upper"]
        listen = ["tcp://127.0.0.1:0"]
        ready_file = "r"
        monitor = "unix:m"
        loop = "asyncio"
        log_level = "debug"
        log_format = "json"
        access_log = true
        strict_plugins = true
        plugins_allowed = ["a"]
        plugins_denied = ["b"]
        plugins_pinned = ["c=sha256:{"0" * 64}"]
        secret_file = "k"
        secret_fd = 3
        allow_insecure_network = true
        [policy]
        "hmac:alice" = ["echo"]
        [limits]
        {limits}
        """,
    )
    settings = load({}, environ)
    names = [field.name for field in dataclasses.fields(Settings)]
    assert all(name in path.read_text() for name in names)
    assert all(getattr(settings, name) != getattr(Settings(), name) for name in names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("log_levl = 1", "FILE has no option 'log_levl': did you mean 'log_level'?"),
        ('log_level = "loud"', "FILE: option 'log_level=loud': write one of debug, info, warning, error"),
        ("log_level = ", "FILE is not TOML: Invalid value (at end of document)"),
        ("policy = 3", 'FILE: \'policy\' is a table: write [policy] and lines like "hmac:alice" = ["echo"]'),
        (
            "[policy]\nanonymous = 'echo'",
            "FILE: [policy]: 'anonymous' needs a list of services, for example [\"echo\"]",
        ),
        ("limits = 3", "FILE: 'limits' is a table: write [limits] and a line for each limit"),
        ("[limits]\nframes_max = 1", "FILE: [limits] has no option 'frames_max': did you mean 'frame_bytes_max'?"),
        ("[limits]\nframe_bytes_max = 0", "FILE: [limits]: option 'frame_bytes_max=0': a limit is more than 0"),
        ("[limits]\nframe_bytes_max = 'x'", "FILE: [limits]: option 'frame_bytes_max=x': write a whole number"),
        ('listen = "tcp://a:1"', "FILE: 'listen' is a list: write listen = [\"...\"]"),
        ("listen = [1]", "FILE: 'listen' holds 1, which is not a string: put it in quotes"),
        ("plugins_denied = [{}]", "FILE: 'plugins_denied' holds {}, which is not a string: put it in quotes"),
        ("[[listen]]\nframing = 'line'", "FILE: [[listen]] needs a line 'endpoint = \"...\"'"),
        (
            "plugin.echo = 3",
            "FILE: [plugin.echo] is a table of options: write [plugin.echo] and a line for each option",
        ),
        (
            "plugin.echo.mode = 2026-01-01",
            "FILE: [[plugin]]: mode holds datetime.date(2026, 1, 1): an option is a string, "
            "a number, true or false, a list or a table",
        ),
    ],
)
def test_what_is_wrong_is_named_with_file_key_and_remedy(
    tmp_path: Path, environ: dict[str, str], text: str, message: str
):
    path = write_user_file(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load({}, environ)
    assert str(caught.value) == message.replace("FILE", str(path))


def test_a_mistake_is_named_even_where_a_higher_layer_hides_it(tmp_path: Path, environ: dict[str, str]):
    write_user_file(tmp_path, 'loop = "twisted"')
    with pytest.raises(OptionError, match="option 'loop=twisted'"):
        load({"loop": "asyncio"}, environ)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"KERNEL_LOOP": "x"}, "KERNEL_LOOP: option 'loop=x': write one of auto, asyncio, uvloop"),
        (
            {"KERNEL_POLICY": "a"},
            "KERNEL_POLICY: 'a' is not PRINCIPAL=SERVICE,..., for example hmac:alice=echo",
        ),
        ({"KERNEL_LIMITS": "a"}, "KERNEL_LIMITS: 'a' is not NAME=VALUE, for example connections_max=100"),
    ],
)
def test_a_variable_is_named_when_it_is_wrong(environ: dict[str, str], variables: dict[str, str], message: str):
    with pytest.raises(OptionError) as caught:
        load({}, environ | variables)
    assert str(caught.value) == message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, environ: dict[str, str]):
    with pytest.raises(UsageError, match=r"cannot read the configuration file .*/no\.toml: No such file or directory"):
        load({}, environ, str(tmp_path / "no.toml"))
