"""What a request becomes: a job, or a refusal with a reason. All of the service's policy is here.

What everybody may and what each matching entry of `principals` adds count together. Nothing of the server's own
environment reaches a command.
"""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from kernel.api import Principal
from kernel.errors import KernelError, OptionError, StartError

from .options import Grant, ShellOptions
from .process import Job
from .protocol import Request
from .templates import Mismatch, Template, choose

_DEFAULT_SHELL = "/bin/sh"


class Denied(KernelError):
    """The request is not allowed, or cannot be met."""


class Account:
    """A user of this machine, as whom commands run."""

    def __init__(self, entry: pwd.struct_passwd) -> None:
        self.name, self.home, self.shell = entry.pw_name, entry.pw_dir, entry.pw_shell or _DEFAULT_SHELL
        self.uid, self.gid = entry.pw_uid, entry.pw_gid

    @classmethod
    def find(cls, name: str) -> Account:
        """The user of that name, or our own.

        Raises:
            StartError: there is none, or we may not become it.
        """
        try:
            account = cls(pwd.getpwnam(name) if name else pwd.getpwuid(os.geteuid()))
        except KeyError:
            if name:
                raise StartError(f"the service shell: there is no user '{name}' on this machine") from None
            nobody = pwd.struct_passwd((str(os.geteuid()), "", os.geteuid(), os.getegid(), "", "/", _DEFAULT_SHELL))
            return cls(nobody)
        if account.uid != os.geteuid() and os.geteuid() != 0:
            raise StartError(f"the service shell: only root can run commands as '{name}': leave user={name} out")
        return account

    @property
    def switch(self) -> dict[str, Any] | None:
        """What the supervisor needs to become this user; None: we are."""
        if self.uid == os.geteuid():
            return None
        return {"name": self.name, "uid": self.uid, "gid": self.gid, "groups": os.getgrouplist(self.name, self.gid)}


class Access:
    """The policy of one service.

    Raises:
        OptionError: a template, or a shell, that cannot be understood.
        StartError: a user that is not there, or that we may not become; a directory that is not there; rights that
            nobody unknown gets.
    """

    def __init__(self, options: ShellOptions) -> None:
        self._options = options
        self._everybody = _Rule(Grant(options.allow, options.free, options.pty))
        # Whoever has not said who he is (a dialect's client) gets more only where `anonymous` is named.
        self._anyone = _Rule(Grant(options.allow))
        self._grants = [(name, _Rule(grant)) for name, grant in options.principals.items()]
        self._check_anonymous(options)
        if options.cwd and not os.path.isdir(options.cwd):
            raise StartError(f"the service shell: cwd={options.cwd} is no directory")
        try:
            self._shell = shlex.split(options.shell)
        except ValueError as error:
            raise OptionError(f"the service shell: option 'shell={options.shell}': {str(error).lower()}") from None
        self._account = Account.find(options.user)
        self._limits = {
            "RLIMIT_CORE": 0,
            "RLIMIT_NPROC": options.processes_max,
            "RLIMIT_NOFILE": options.open_files_max,
            "RLIMIT_DATA": options.memory_bytes_max,
            "RLIMIT_FSIZE": options.file_bytes_max,
            "RLIMIT_CPU": options.cpu_seconds_max,
        }

    @staticmethod
    def _check_anonymous(options: ShellOptions) -> None:
        """Anybody who can connect is a hole, not a client."""
        grant = options.principals.get("anonymous")
        right = "free" if grant and grant.free else "pty" if grant and grant.pty else ""
        if options.dialects_for_anyone and right:
            raise StartError(
                f"the service shell: principals.anonymous has {right}, so anybody who can connect could run anything: "
                f"leave {right} out, and name in 'allow' what anybody may run"
            )

    @property
    def runs_as_root(self) -> bool:
        return self._account.uid == 0

    def job(self, principal: Principal, request: Request, *, changes_directory: bool = False) -> Job:
        """What to run for a principal.

        Raises:
            Denied: it may not.
        """
        rules = list(self._rules(principal))
        free = self.is_free(principal)
        if request.terminal is not None and not any(rule.grant.pty for rule in rules):
            raise Denied(f"{principal} may not open a terminal here")
        account = next((rule.account for rule in reversed(rules) if rule.account is not None), self._account)
        if changes_directory:
            argv, shell = request.argv, False
        else:
            argv, shell = self._argv(principal, request, rules, account)
        cwd, within = self._cwd(request, account, free=free or shell)
        options = self._options
        return Job(
            argv=argv,
            env=self._env(request, account, free=free or shell),
            cwd=cwd,
            within=within,
            terminal=request.terminal,
            umask=int(options.umask, 8),
            limits=self._limits,
            user=account.switch,
            privileges=options.privileges,
            cgroup=options.cgroup == "auto",
            grace_seconds=options.grace_seconds,
        )

    def is_free(self, principal: Principal) -> bool:
        """Whether it may run anything."""
        return any(rule.grant.free for rule in self._rules(principal))

    def seconds(self, request: Request) -> float:
        """How long it may run."""
        options = self._options
        most = options.timeout_seconds if request.terminal is None else options.terminal_seconds_max
        return min(request.timeout_seconds, most) if request.timeout_seconds else most

    def _rules(self, principal: Principal) -> Iterator[_Rule]:
        name = str(principal)
        if principal.mechanism == "none":
            yield self._anyone
            yield from (rule for pattern, rule in self._grants if name == pattern)
        else:
            yield self._everybody
            yield from (rule for pattern, rule in self._grants if fnmatchcase(name, pattern))

    def _argv(
        self, principal: Principal, request: Request, rules: list[_Rule], account: Account
    ) -> tuple[list[str], bool]:
        """The command line, and whether it is a shell, in which anything may be done."""
        free = any(rule.grant.free for rule in rules)
        if not request.argv:
            if request.terminal is None and not free:
                raise Denied(f"{principal} may not run a shell here: name a command")
            return self._shell or [account.shell], not self._shell
        templates = [template for rule in rules for template in rule.templates]
        try:
            return choose(templates, request.argv), False
        except Mismatch as mismatch:
            if free:
                return request.argv, True
            raise Denied(_refusal(request.argv, templates, mismatch)) from None

    def _cwd(self, request: Request, account: Account, *, free: bool) -> tuple[str, str]:
        """Where to start, and the directory that must not be left for that."""
        base = self._options.cwd or account.home
        if not self._options.cwd and not os.path.isdir(base):
            base = "/"
        if not request.cwd:
            return base, ""
        return os.path.join(base, request.cwd), "" if free else base

    def _env(self, request: Request, account: Account, *, free: bool) -> dict[str, str]:
        options = self._options
        env = {
            "HOME": account.home,
            "LOGNAME": account.name,
            "PATH": options.path,
            "SHELL": account.shell,
            "USER": account.name,
            **options.env,
        }
        if request.terminal is not None:
            env["TERM"] = request.terminal.term
        env |= {
            name: value
            for name, value in request.offers.items()
            if self._may_set(name) and (free or not _names_file(name, value))
        }
        for name, value in request.env.items():
            if not (free or self._may_set(name)):
                raise Denied(f"the variable '{name}' may not be set here: {', '.join(options.env_allowed)} may")
            if not free and _names_file(name, value):
                raise Denied(f"the variable '{name}' may not be '{value}' here: it would name a file")
            env[name] = value
        return env

    def _may_set(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._options.env_allowed)


class _Rule:
    """A grant with its templates read."""

    def __init__(self, grant: Grant) -> None:
        self.grant = grant
        self.templates = [Template(given) for given in grant.allow]
        self.account = Account.find(grant.user) if grant.user else None


def _names_file(name: str, value: str) -> bool:
    """Whether the C library might read a file of the client's choice for the value of a variable that looks harmless:
    what it takes for a zone or a language it looks for below a directory of its own."""
    if name == "TZ":
        return value.startswith(("/", ":")) or ".." in value
    return (name == "LANG" or name.startswith("LC_")) and ("/" in value or "%" in value)


def _refusal(argv: list[str], templates: list[Template], mismatch: Mismatch) -> str:
    if mismatch.words:
        return f"'{shlex.join(argv)}' is not allowed: {mismatch}"
    known = ", ".join(template.text for template in templates)
    return f"'{argv[0]}' is not allowed here" + (f": allowed are {known}" if known else ", and nothing else is")
