"""Who may run what: refused by default, allowed by templates, and more for some."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernel import NeedsCapability, OptionError, Server
from kernel.errors import StartError
from kernel.plugins.shell.options import Parameter, TemplateOptions
from kernel.plugins.shell.templates import Mismatch, Template, choose

from .conftest import Run, Serve

pytestmark = pytest.mark.any_engine


async def test_nobody_is_served_unknown_on_loopback_either():
    with pytest.raises(NeedsCapability, match="for peers that prove who they are") as caught:
        await Server(["shell?free=1"], ["tcp://127.0.0.1:0"]).start()
    assert "\n" not in str(caught.value)


async def test_nor_on_a_socket_that_asks_nobody(tmp_path: Path):
    with pytest.raises(NeedsCapability, match="for peers that prove who they are"):
        await Server(["shell?free=1"], [f"unix:{tmp_path}/s?auth=none"]).start()


def test_nothing_may_run_by_default(serve: Serve, run: Run):
    endpoint = serve("plugin = ['shell']").endpoints[0]
    done = run(endpoint, "--", "echo", "hello")
    assert (done.code, done.out) == (1, b"")
    assert done.err == "kernel: error: forbidden: 'echo' is not allowed here, and nothing else is\n"
    assert "may not run a shell here: name a command" in run(endpoint).err


def test_templates_and_who_may_more(serve: Serve, run: Run):
    me = f"unix:{os.geteuid()}"
    endpoint = serve(
        f"""
        [plugin.shell]
        allow = ["echo hello {{name}}", {{ command = "shout {{what:text}}", runs = ["printf", "%s!", "{{what}}"] }}]
        [plugin.shell.principals."{me}"]
        allow = ["id -u"]
        [plugin.shell.principals."hmac:*"]
        free = true
        """
    ).endpoints[0]
    assert run(endpoint, "--", "echo", "hello", "world").out == b"hello world\n"
    assert run(endpoint, "--", "shout", "$(id); hey").out == b"$(id); hey!"
    assert run(endpoint, "--", "id", "-u").out == f"{os.geteuid()}\n".encode()
    assert run(endpoint, "--", "env").code == 1
    assert "name = '-n' begins with '-'" in run(endpoint, "--", "echo", "hello", "-n").err


def test_variables_and_directories_are_confined(serve: Serve, run: Run, tmp_path: Path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "out").symlink_to("/")
    endpoint = serve(f'[plugin.shell]\nallow = ["pwd", "env"]\ncwd = "{tmp_path}"').endpoints[0]
    assert run(endpoint, "--", "pwd").out == f"{tmp_path}\n".encode()
    assert run(endpoint, "--cwd", "inside", "--", "pwd").out == f"{tmp_path}/inside\n".encode()
    for outside in ("..", "/", "out", "inside/../.."):
        done = run(endpoint, "--cwd", outside, "--", "pwd")
        assert (done.code, done.out) == (126, b"")
        assert "its working directory cannot be entered: permission denied" in done.err
    assert b"LANG=C\n" in run(endpoint, "--env", "LANG=C", "--", "env").out
    assert "the variable 'LD_PRELOAD' may not be set here" in run(endpoint, "--env", "LD_PRELOAD=x", "--", "env").err


@pytest.mark.parametrize("zone", ["/etc/passwd", ":etc/passwd", "../../etc/passwd", "Europe/../../x"])
def test_a_time_zone_is_no_file_of_the_clients_choice(serve: Serve, run: Run, zone: str):
    endpoint = serve('[plugin.shell]\nallow = ["env"]').endpoints[0]
    done = run(endpoint, "--env", f"TZ={zone}", "--", "env")
    assert f"the variable 'TZ' may not be '{zone}' here" in done.err
    assert b"TZ" not in run(endpoint, "--", "env", TZ=zone).out
    assert b"TZ=Europe/Berlin\n" in run(endpoint, "--", "env", TZ="Europe/Berlin").out


@pytest.mark.parametrize(("name", "value"), [("LANG", "../../x"), ("LC_ALL", "/x"), ("LC_TIME", "%s")])
def test_nor_is_a_language(serve: Serve, run: Run, name: str, value: str):
    endpoint = serve('[plugin.shell]\nallow = ["env"]').endpoints[0]
    assert (
        f"the variable '{name}' may not be '{value}' here" in run(endpoint, "--env", f"{name}={value}", "--", "env").err
    )


def test_who_may_run_anything_may_set_anything(serve: Serve, run: Run):
    endpoint = serve("[plugin.shell]\nfree = true").endpoints[0]
    assert b"TZ=:/x\n" in run(endpoint, "--", "env", TZ=":/x").out


@pytest.mark.parametrize("right", ["free", "pty"])
async def test_nobody_unknown_runs_anything(tmp_path: Path, right: str):
    principals = f'principals={{"anonymous":{{"{right}":true}}}}'
    with pytest.raises(StartError, match=f"principals.anonymous has {right}.*name in 'allow'") as caught:
        await Server([f"shell?dialects_for_anyone=1&{principals}"], [f"unix:{tmp_path}/s?dialect=cmd-sized"]).start()
    assert "\n" not in str(caught.value)


async def test_a_directory_that_is_not_there_ends_the_start(tmp_path: Path):
    with pytest.raises(StartError, match="cwd=/no/where is no directory"):
        await Server(["shell?allow=pwd&cwd=/no/where"], [f"unix:{tmp_path}/s"]).start()


@pytest.mark.parametrize(
    ("plugin", "what"),
    [
        ('shell?allow=["a {b"]', r"allow: 'a {b': '{b' is no parameter"),
        ('shell?allow=["a {b:integer}"]', "there is no type 'integer'"),
        ('shell?allow=["a {b...} c"]', "stands at the end only"),
        ('shell?allow=["a {b} {b}"]', "two parameters 'b'"),
        ('shell?allow=[{"command":"a","runs":["{c}"]}]', "has a parameter 'c' that 'command' has not"),
        ('shell?allow=[{"cmd":"a"}]', r"option 'allow\[0\]': object contains unknown field cmd"),
        ('shell?principals={"*":{"fre":true}}', "option 'principals.*unknown field fre"),
        ("shell?allow=[", "write a list"),
        ("shell?principals=x", "write a table"),
        ("shell?umask=9", "umask"),
        ('shell?shell="', "option 'shell=\"': no closing quotation"),
        ("shell?fre=1", "did you mean 'free'"),
    ],
)
async def test_what_cannot_be_understood_ends_the_start(plugin: str, what: str, tmp_path: Path):
    with pytest.raises(OptionError, match=what) as caught:
        await Server([plugin], [f"unix:{tmp_path}/s"]).start()
    assert "\n" not in str(caught.value)


class TestTemplates:
    @pytest.mark.parametrize(
        ("template", "line", "runs"),
        [
            ("uptime", "uptime", "uptime"),
            ("tail -n {lines:int} {file:path}", "tail -n 20 log/app.log", "tail -n 20 log/app.log"),
            ("ctl --unit={unit}", "ctl --unit=nginx@1", "ctl --unit=nginx@1"),
            ("ls {files:path...}", "ls", "ls"),
            ("ls {files:path...}", "ls a /b", "ls a /b"),
            ("'two words' {x}", "two_words y", None),
            ("tail -n {lines:int}", "tail -n many", None),
            ("tail -n {lines:int}", "tail -n -1", None),
            ("tail {file:path}", "tail ../x", None),
            ("tail {file:path}", "tail -f", None),
            ("echo {x}", "echo a;b", None),
            ("echo {x}", "echo", None),
            ("echo {x}", "echo a b", None),
            ("echo a", "echo b", None),
            ("ctl --unit={unit}", "ctl --unit", None),
        ],
    )
    def test_lines(self, template: str, line: str, runs: str | None):
        if runs is None:
            with pytest.raises(Mismatch):
                Template(template).match(line.split())
        else:
            assert Template(template).match(line.split()) == runs.split()

    @pytest.mark.parametrize(
        ("parameter", "value", "fits"),
        [
            (Parameter("int", min=-5, max=5), "-5", True),
            (Parameter("int", min=-5, max=5), "6", False),
            (Parameter("int"), "1_0", False),
            (Parameter("int"), "٣", False),
            (Parameter("choice", values=("a", "-b"), dash=True), "-b", True),
            (Parameter("choice", values=("a",)), "b", False),
            (Parameter("text"), "$(rm -rf /) `x` ; \"' ü", True),
            (Parameter("text"), "a\nb", False),
            (Parameter("text"), "\u202e", False),
            (Parameter("text"), "\udcff", False),
            (Parameter("word", pattern="[a-z]+"), "abc", True),
            (Parameter("word", pattern="[a-z]+"), "abc1", False),
            (Parameter("word"), "abc\n", False),
            (Parameter("word"), "...", True),
            (Parameter("word"), ".", False),
            (Parameter("word"), "..", False),
            (Parameter("path"), "", False),
            (Parameter("path"), "a\0b", False),
        ],
    )
    def test_values(self, parameter: Parameter, value: str, fits: bool):
        template = Template(TemplateOptions("run {x}", parameters={"x": parameter}))
        if fits:
            assert template.match(["run", value]) == ["run", value]
        else:
            with pytest.raises(Mismatch):
                template.match(["run", value])

    def test_a_path_stays_where_it_belongs(self, tmp_path: Path):
        (tmp_path / "in").write_text("")
        (tmp_path / "out").symlink_to("/etc/passwd")
        template = Template(
            TemplateOptions("cat {file:path}", parameters={"file": Parameter("path", under=str(tmp_path))})
        )
        assert template.match(["cat", "in"]) == ["cat", f"{tmp_path}/in"]
        assert template.match(["cat", f"{tmp_path}/in"]) == ["cat", f"{tmp_path}/in"]
        assert template.match(["cat", "new"]) == ["cat", f"{tmp_path}/new"]
        (tmp_path / "loop").symlink_to("loop")
        (tmp_path / "nowhere").symlink_to("/no/where")
        for outside in ("out", "/etc/passwd", "../x", "loop", "nowhere", "in/x"):
            with pytest.raises(Mismatch):
                template.match(["cat", outside])

    def test_the_closest_template_says_why(self):
        templates = [Template("tail -n {lines:int}"), Template("uptime")]
        with pytest.raises(Mismatch, match="lines = 'x' is not a whole number"):
            choose(templates, ["tail", "-n", "x"])
