"""Which command lines may run: templates of words and typed parameters. A client's words are compared, never parsed.

    tail -n {lines:int} {file:path}        allows  tail -n 20 app.log
    systemctl restart {unit}               allows  systemctl restart nginx

A parameter stands for one word, or for a part of one (`--unit={unit}`), or at the end for any number
(`{files:path...}`). What a client gives is one argument of the command, whatever characters it holds: no shell sees it.
A value that begins with `-` could still be taken for an option, so it must be asked for (`dash`; negative numbers by
`min`).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from msgspec.structs import replace

from kernel.errors import OptionError

from .options import Parameter, ParameterType, TemplateOptions

_FIELD = re.compile(r"\{(?P<name>[A-Za-z_]\w*)(?::(?P<type>\w+))?(?P<many>\.\.\.)?\}")
_WORD = re.compile(r"[\w.,:@%+=-]+", re.ASCII)
_INT = re.compile(r"-?[0-9]{1,18}")
_TYPES: tuple[ParameterType, ...] = get_args(ParameterType)


class Mismatch(Exception):
    """A command line is not what a template allows; `words` of it fitted before that."""

    def __init__(self, reason: str, words: int) -> None:
        super().__init__(reason)
        self.words = words


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a template: literal when it has no parameter."""

    before: str
    name: str = ""
    after: str = ""
    many: bool = False


class Template:
    """One command line that may run.

    Raises:
        OptionError: it cannot be understood; the message says what and where.
    """

    def __init__(self, given: str | TemplateOptions) -> None:
        options = TemplateOptions(given) if isinstance(given, str) else given
        self.text = options.command
        self._parameters = dict(options.parameters)
        try:
            texts = shlex.split(options.command)
        except ValueError as error:
            raise self._fault(str(error).lower()) from None
        if not texts:
            raise self._fault("it has no words")
        self._words = [self._word(text) for text in texts]
        if any(word.many for word in self._words[:-1]):
            raise self._fault("'...' stands at the end only")
        names = [word.name for word in self._words if word.name]
        for name in names:
            if names.count(name) > 1:
                raise self._fault(f"it has two parameters '{name}'")
            self._check_parameter(name, self._parameters.setdefault(name, Parameter()))
        for name in self._parameters.keys() - set(names):
            raise self._fault(f"it has no parameter '{name}'")
        self._runs = [self._word(text, declares=False) for text in options.runs] or self._words
        for word in self._runs:
            if word.name and word.name not in names:
                raise self._fault(f"'runs' has a parameter '{word.name}' that 'command' has not")

    def match(self, argv: Sequence[str]) -> list[str]:
        """The command line to run.

        Raises:
            Mismatch: the client's is not allowed.
        """
        values: dict[str, list[str]] = {}
        for index, word in enumerate(self._words):
            if word.many:
                values[word.name] = [self._value(word, given, index) for given in argv[index:]]
                break
            if index >= len(argv):
                raise Mismatch(f"'{self.text}' needs more words", index)
            if not word.name:
                if argv[index] != word.before:
                    raise Mismatch(f"'{argv[index]}' is not '{word.before}'", index)
            else:
                values[word.name] = [self._value(word, argv[index], index)]
        else:
            if len(argv) > len(self._words):
                raise Mismatch(f"'{self.text}' takes no more words", len(self._words))
        return [text for word in self._runs for text in _filled(word, values)]

    def _value(self, word: Word, given: str, index: int) -> str:
        inside = len(given) >= len(word.before) + len(word.after)
        if not (inside and given.startswith(word.before) and given.endswith(word.after)):
            raise Mismatch(f"'{given}' is not '{word.before}...{word.after}'", index)
        value = given[len(word.before) : len(given) - len(word.after)]
        parameter = self._parameters[word.name]
        fault = _fault_of(value, parameter)
        if fault:
            raise Mismatch(f"{word.name} = '{value}' {fault}", index)
        if parameter.under:
            return os.path.join(parameter.under, value)
        return value

    def _word(self, text: str, *, declares: bool = True) -> Word:
        found = list(_FIELD.finditer(text))
        if not found:
            if "{" in text and declares:
                raise self._fault(f"'{text}' is no parameter: write {{name}} or {{name:type}}")
            return Word(text)
        if len(found) > 1:
            raise self._fault(f"'{text}' holds two parameters")
        [match] = found
        name, kind, many = match["name"], match["type"], bool(match["many"])
        if kind is not None:
            known = next((known for known in _TYPES if known == kind), None)
            if known is None:
                raise self._fault(f"there is no type '{kind}': there are {', '.join(_TYPES)}")
            self._parameters[name] = replace(self._parameters.get(name, Parameter()), type=known)
        return Word(text[: match.start()], name, text[match.end() :], many)

    def _check_parameter(self, name: str, parameter: Parameter) -> None:
        try:
            re.compile(parameter.pattern)
        except re.error as error:
            raise self._fault(f"the pattern of '{name}' is not one: {error}") from None
        if (parameter.type == "choice") != bool(parameter.values):
            raise self._fault(f"'{name}': type = \"choice\" and values go together")
        if parameter.type != "int" and (parameter.min, parameter.max) != (None, None):
            raise self._fault(f"'{name}': min and max are for type = \"int\"")
        if parameter.under and parameter.type != "path":
            raise self._fault(f"'{name}': under is for type = \"path\"")
        if parameter.under and not os.path.isabs(parameter.under):
            raise self._fault(f"'{name}': under is an absolute path")

    def _fault(self, what: str) -> OptionError:
        return OptionError(f"the service shell: allow: '{self.text}': {what}")


def choose(templates: Iterable[Template], argv: Sequence[str]) -> list[str]:
    """The command line that the first matching template makes of a client's.

    Raises:
        Mismatch: none does; the reason is that of the one that came closest.
    """
    closest: Mismatch | None = None
    for template in templates:
        try:
            return template.match(argv)
        except Mismatch as mismatch:
            if closest is None or mismatch.words > closest.words:
                closest = mismatch
    raise closest or Mismatch("nothing is allowed here", 0)


def _filled(word: Word, values: dict[str, list[str]]) -> list[str]:
    if not word.name:
        return [word.before]
    return [f"{word.before}{value}{word.after}" for value in values[word.name]]


def _fault_of(value: str, parameter: Parameter) -> str:
    """What is wrong with a value; empty when nothing is."""
    if value.startswith("-") and not parameter.dash and parameter.type != "int":
        return "begins with '-'"
    if parameter.pattern and not re.fullmatch(parameter.pattern, value):
        return f"does not match {parameter.pattern}"
    match parameter.type:
        case "word":
            if value in (".", ".."):
                return "is a directory's own name or its parent's: type = \"path\" takes directories"
            return "" if _WORD.fullmatch(value) else "is not one word of letters, digits and _ . , : @ % + = -"
        case "text":
            return "" if value.isprintable() else "holds what does not print"
        case "choice":
            return "" if value in parameter.values else f"is not one of {', '.join(parameter.values)}"
        case "int":
            return _fault_of_int(value, parameter)
        case "path":
            return _fault_of_path(value, parameter)


def _fault_of_int(value: str, parameter: Parameter) -> str:
    if not _INT.fullmatch(value):
        return "is not a whole number"
    low = 0 if parameter.min is None else parameter.min
    if int(value) < low:
        return f"is less than {low}"
    if parameter.max is not None and int(value) > parameter.max:
        return f"is more than {parameter.max}"
    return ""


def _fault_of_path(value: str, parameter: Parameter) -> str:
    if not value or any(ord(char) < 32 or ord(char) == 127 for char in value):
        return "is empty or holds control characters"
    if ".." in value.split("/"):
        return "holds '..'"
    if parameter.under:
        base = os.path.realpath(parameter.under)
        try:
            arrived = _resolved(os.path.join(parameter.under, value))
        except OSError as error:  # a link may hide there
            return f"cannot be looked at: {error.strerror}"
        if os.path.commonpath([arrived, base]) != base:
            return f"does not lie in {parameter.under}"
    return ""


def _resolved(path: str) -> str:
    """Where a path leads; it need not be there.

    Raises:
        OSError: that cannot be seen.
    """
    try:
        return os.path.realpath(path, strict=True)
    except FileNotFoundError:
        return os.path.realpath(path)
