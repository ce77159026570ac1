"""What an operator can say about a shell service: `--plugin shell?...`, or better a table of the configuration file.

[plugin.shell]
allow = ["uptime", "df -h {path:path}"]
user = "nobody"

[plugin.shell.principals."hmac:ops-*"]
free = true
pty = true
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Struct

from kernel.limits import KIB, MIB
from kernel.options import Meta

ParameterType = Literal["word", "text", "int", "path", "choice"]


class Parameter(Struct, frozen=True, forbid_unknown_fields=True):
    """What may stand in a `{name}` of a template.

    Attributes:
        type: `word`: letters, digits and `_ . , : @ % + = -`; `text`: whatever prints; `int`; `path`: no `..` in it;
            `choice`: one of `values`.
        pattern: a regular expression that the whole value must match, too.
        values: of a choice.
        min, max: of an int.
        under: of a path: the directory in which it must lie; relative paths are taken from there.
        dash: the value may begin with `-`, and be taken for an option.
    """

    type: ParameterType = "word"
    pattern: str = ""
    values: tuple[str, ...] = ()
    min: int | None = None
    max: int | None = None
    under: str = ""
    dash: bool = False


class TemplateOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """A command line that may run.

    Attributes:
        command: as the client says it: words, and `{name}` or `{name:type}` for its parameters; `{name...}` at the end
            stands for any number of them.
        runs: what runs in its place, word by word, with the same parameters; empty: `command` itself.
        parameters: more about them.
    """

    command: str
    runs: tuple[str, ...] = ()
    parameters: Mapping[str, Parameter] = {}  # msgspec copies it


class Grant(Struct, frozen=True, forbid_unknown_fields=True):
    """What some principals may do beyond what everybody may.

    Attributes:
        allow: more templates.
        free: any command line.
        pty: a terminal.
        user: as whom their commands run; empty: as everybody's.
    """

    allow: tuple[str | TemplateOptions, ...] = ()
    free: bool = False
    pty: bool = False
    user: str = ""


@dataclass(frozen=True, slots=True)
class ShellOptions:
    """See docs/shell.md."""

    allow: Annotated[
        tuple[str | TemplateOptions, ...], Meta(description="the command lines that may run: words and {parameters}")
    ] = ()
    free: Annotated[bool, Meta(description="any command line may run")] = False
    pty: Annotated[bool, Meta(description="terminals may be opened, and the shell in them")] = False
    principals: Annotated[
        Mapping[str, Grant], Meta(description="more for some: patterns of principals, each with allow, free, pty, user")
    ] = field(default_factory=dict)
    shell: Annotated[str, Meta(description="what runs when no command is named; empty: the user's own")] = ""
    user: Annotated[str, Meta(description="as whom commands run; empty: as the server's user")] = ""
    cwd: Annotated[str, Meta(description="where commands start; empty: the user's home")] = ""
    path: Annotated[str, Meta(description="where commands are looked for")] = (
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    )
    env: Annotated[Mapping[str, str], Meta(description="variables that each command gets")] = field(
        default_factory=dict
    )
    env_allowed: Annotated[
        tuple[str, ...], Meta(description="variables that a client may set; * and ? as in file names")
    ] = ("LANG", "LC_*", "TZ", "NO_COLOR", "COLORTERM")
    umask: Annotated[str, Meta(pattern="^[0-7]{3,4}$", description="of the files that commands make")] = "077"
    privileges: Annotated[bool, Meta(description="set-user-ID programs work, such as sudo")] = False
    timeout_seconds: Annotated[float, Meta(gt=0, description="a command that takes longer is ended")] = 3600.0
    terminal_seconds_max: Annotated[float, Meta(gt=0, description="the same for a terminal")] = 86_400.0
    grace_seconds: Annotated[float, Meta(ge=0, le=60, description="from the request to end to the kill")] = 2.0
    output_bytes_max: Annotated[int, Meta(ge=1, description="a command that writes more is ended")] = 64 * 1024 * MIB
    commands_max: Annotated[int, Meta(ge=1, description="how many run at once")] = 64
    commands_per_principal_max: Annotated[
        int, Meta(ge=0, description="how many of one principal run at once; 0: half of commands_max")
    ] = 0
    processes_max: Annotated[int, Meta(ge=1, description="RLIMIT_NPROC: of the command's user in all")] = 4096
    open_files_max: Annotated[int, Meta(ge=3, description="RLIMIT_NOFILE")] = 1024
    memory_bytes_max: Annotated[int, Meta(ge=MIB, description="RLIMIT_DATA: of each process")] = 4 * 1024 * MIB
    file_bytes_max: Annotated[int, Meta(ge=0, description="RLIMIT_FSIZE: of each file that is written")] = (
        64 * 1024 * MIB
    )
    cpu_seconds_max: Annotated[int, Meta(ge=1, description="RLIMIT_CPU: of each process")] = 3600
    detach_seconds: Annotated[float, Meta(ge=0, description="a terminal waits so long for a client that was lost")] = (
        300.0
    )
    replay_bytes: Annotated[int, Meta(ge=0, le=16 * MIB, description="of a terminal's output, kept for its return")] = (
        256 * KIB
    )
    dialects_for_anyone: Annotated[bool, Meta(description="listeners with dialect= need not know their peers")] = False
    record_dir: Annotated[str, Meta(description="where terminals are recorded; empty: they are not")] = ""
    cgroup: Annotated[
        Literal["auto", "off"], Meta(description="auto: each command has a control group where we may")
    ] = "auto"
