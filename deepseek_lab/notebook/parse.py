"""From text to a frozen :class:`Command`. Nothing that was typed is evaluated."""

from __future__ import annotations

import dataclasses
import keyword
import re
import shlex
from collections.abc import Sequence
from pathlib import PurePath

from deepseek_lab.base.errors import UsageError, nearest
from deepseek_lab.notebook.grammar import VERBS, Flag, Form, Value, Verb

PREFIXES: dict[Form, str] = {"cell": "%%deepseek", "line": "%deepseek", "script": "python -m deepseek_lab"}
_VALUE = re.compile(r"\s*(\"[^\"]*\"|'[^']*'|\S+)")
_SECOND = re.compile(r"(?P<word>[^\W\d]\w*)(?:\s*$|\s+[\"']?(?P<next>[^\W\d]\w*|--\w))")
_CELLS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


@dataclasses.dataclass(frozen=True)
class Command:
    """One thing to do, as typed: names are still words, numbers are numbers."""

    verb: str
    form: Form
    operands: tuple[str, ...] = ()
    flags: tuple[tuple[str, Value], ...] = ()
    inner: Command | None = None
    """What ``on`` opens around every following cell."""
    script: tuple[str, ...] = ()
    """Path and arguments of a script."""

    def has(self, name: str) -> bool:
        """Whether the flag was given."""
        return any(key == name for key, _ in self.flags)

    def get(self, name: str) -> Value | None:
        """The flag's value, or None if it was not given."""
        return next((value for key, value in self.flags if key == name), None)

    def text(self, name: str) -> str | None:
        """The value of a flag that holds text, or None."""
        value = self.get(name)
        return value if isinstance(value, str) else None

    def number(self, name: str) -> float | None:
        """The value of a flag that holds a number, or None."""
        value = self.get(name)
        return float(value) if isinstance(value, int | float) else None

    def __str__(self) -> str:
        words = [PREFIXES[self.form], VERBS[self.verb].words, *map(shlex.quote, self.operands)]
        for name, value in self.flags:
            words.append(f"--{name}")
            if value is not True:
                words.append(shlex.quote(",".join(value) if isinstance(value, tuple) else str(value)))
        return " ".join([*words, *map(shlex.quote, self.script)])


def split(text: str) -> list[str]:
    """Words of a magic's line, by the rules of a shell; a closing ``;`` is dropped.

    Raises:
        UsageError: a quotation mark is left open.
    """
    stripped = text.strip()
    try:
        return shlex.split(stripped[:-1] if stripped.endswith(";") else stripped)
    except ValueError:
        raise UsageError(f"a quotation mark is left open in {stripped!r}", hint="close it") from None


def split_line(text: str) -> list[str]:
    """Words of a line magic; the statement of a verb that takes one is the last word, as it was typed.

    Raises:
        UsageError: a quotation mark is left open.
    """
    head, _, rest = text.strip().partition(" ")
    verb = VERBS.get(head)
    if verb is not None and (longer := two_words(head, rest)) is not None:
        return [longer.name, *split(rest.lstrip()[len(longer.words) - len(head) - 1 :])]
    if verb is None or not verb.takes_code:
        return split(text)
    words = [head]
    while rest := rest.lstrip():
        word, _, after = rest.partition(" ")
        if not word.startswith("-") or word == "-":
            return [*words, rest]
        words.append(word)
        rest = after
        flag = verb.flag(word.lstrip("-")) or next(
            (one for one in verb.all_flags() if word == f"-{one.short}"), None
        )
        if flag is not None and flag.kind != "switch" and "=" not in word:
            value = _VALUE.match(rest)
            if value is not None:
                words += split(value.group())
                rest = rest[value.end() :]
    return words


def two_words(head: str, rest: str) -> Verb | None:
    """The verb of two words with which a line begins. A statement that begins with a name like the second word is
    none: a name or a flag has to follow, which no statement can have there.
    """
    match = _SECOND.match(rest.lstrip())
    if match is None or match["next"] is None or keyword.iskeyword(match["next"]):
        return None
    return VERBS.get(f"{head}_{match['word']}")


def find_verb(word: str, form: Form) -> Verb:
    """The verb called ``word``, if it can be typed in this form.

    Raises:
        UsageError: there is none, or it has no such form; the message names the nearest one that has.
    """
    prefix = PREFIXES[form]
    usable = [name for name, verb in VERBS.items() if form in verb.forms]
    verb = VERBS.get(word)
    if verb is None:
        near = nearest(word, usable) or nearest(word, VERBS)
        raise UsageError(f"there is no verb {word!r}", hint=f"{prefix} {near or '--help'}")
    if form not in verb.forms:
        other = verb.forms[0]
        raise UsageError(
            f"{word} has no form {prefix} {word}", hint=f"{PREFIXES[other]} {word}, or {prefix} {usable[0]}"
        )
    return verb


def parse(words: Sequence[str], form: Form) -> Command:
    """Turn words, the first of which is the verb, into a command.

    Raises:
        UsageError: a word is unknown, missing or no value of its flag; the message names the next
            thing to type.
    """
    if not words:
        raise UsageError("no verb was given", hint=f"{PREFIXES[form]} --help")
    verb = find_verb(words[0].rstrip("?"), form)
    if words[0].endswith("?"):
        return Command(verb.name, form, flags=(("help", True),))
    if verb.name == "on":
        if words[1:2] and words[1] in {"--help", "-h"}:
            return Command("on", form, flags=(("help", True),))
        named = words[1:2] and not words[1].startswith("-")
        inner = parse(words[1:] if named else ["optimize", *words[1:]], "cell")
        if VERBS[inner.verb].elsewhere:
            raise UsageError(
                f"{inner.verb} runs a cell in other processes, which is said above each cell",
                hint=f"%%deepseek {inner.verb}",
            )
        return Command("on", form, (inner.verb,), inner=inner)
    operands: list[str] = []
    flags: dict[str, Value] = {}
    script: tuple[str, ...] = ()
    rest = list(words[1:])
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            if form == "cell" and verb.takes_code:
                raise UsageError(
                    f"{verb.name} above a cell profiles the cell, and does not know what to do with {word!r}",
                    hint=f"{PREFIXES['line']} {verb.name} {' '.join([word, *rest])}",
                )
            if form == "script" and "cell" in verb.forms:
                script, rest = (word, *rest), []
            else:
                operands.append(word)
            continue
        name, equals, text = word.partition("=")
        flag = _find_flag(verb, name, form)
        if flag.name in flags:
            raise UsageError(f"--{flag.name} was given twice", hint=f"keep one --{flag.name}")
        if flag.kind == "switch":
            if equals:
                raise UsageError(f"--{flag.name} takes no value", hint=f"--{flag.name}")
            flags[flag.name] = True
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UsageError(f"--{flag.name} needs a value", hint=flag.spelling)
            text = rest.pop(0)
        flags[flag.name] = convert(flag, text)
    command = Command(verb.name, form, tuple(operands), tuple(flags.items()), script=script)
    if not command.has("help"):
        _check_operands(verb, command)
    return command


def _find_flag(verb: Verb, word: str, form: Form) -> Flag:
    flags = verb.all_flags()
    for flag in flags:
        if word == f"--{flag.name}" or (flag.short and word == f"-{flag.short}"):
            return flag
    near = nearest(word.lstrip("-"), [flag.name for flag in flags])
    head = f"{PREFIXES[form]} {verb.words}"
    raise UsageError(f"{verb.words} has no flag {word!r}", hint=f"{head} --{near or 'help'}")


def _check_operands(verb: Verb, command: Command) -> None:
    prefix = f"{PREFIXES[command.form]} {verb.words}"
    if command.form == "script" and "cell" in verb.forms:
        if not command.script:
            raise UsageError(f"{verb.name} needs a script to run", hint=f"{prefix} SCRIPT.py")
        return
    if command.form == "line" and verb.name == "optimize" and not command.operands:
        raise UsageError(
            "optimize on a line needs the object to optimize",
            hint=f"{prefix} TARGET, or %%deepseek optimize above a cell",
        )
    missing = [operand for operand in verb.operands[len(command.operands) :] if operand.required]
    if missing:
        raise UsageError(
            f"{verb.words} needs {missing[0].name}: {missing[0].help}", hint=f"{prefix} {missing[0].name}"
        )
    if not any(operand.many for operand in verb.operands) and len(command.operands) > len(verb.operands):
        extra = command.operands[len(verb.operands)]
        near = nearest(extra, [flag.name for flag in verb.all_flags()])
        words = " ".join([prefix, *command.operands[: len(verb.operands)]])
        raise UsageError(
            f"{verb.words} does not know what to do with {extra!r}",
            hint=f"{words} --{near}" if near else words,
        )


def convert(flag: Flag, text: str) -> Value:
    """The value that ``text`` stands for.

    Raises:
        UsageError: it is no value of the flag's kind.
    """
    match flag.kind:
        case "choice":
            if text not in flag.choices:
                near = nearest(text, flag.choices)
                raise UsageError(
                    f"{text!r} is no value for --{flag.name}, which is one of {', '.join(flag.choices)}",
                    hint=f"--{flag.name} {near or flag.choices[0]}",
                )
            return text
        case "int":
            return int(_number(flag, text, whole=True))
        case "float":
            return _number(flag, text)
        case "seconds":
            scale = _UNITS.get(text[-1:].lower(), 0.0)
            return _number(flag, text[:-1]) * scale if scale else _number(flag, text)
        case "names":
            return tuple(part.strip() for part in text.split(",") if part.strip())
        case "name":
            if not text.isidentifier() or keyword.iskeyword(text):
                raise UsageError(f"{text!r} cannot be a name in Python", hint=f"--{flag.name} report")
            return text
        case "path":
            if PurePath(text).suffix not in flag.choices:
                raise UsageError(
                    f"--{flag.name} writes {', '.join(flag.choices)}, which {text!r} does not end in",
                    hint=f"--{flag.name} {PurePath(text).stem or 'report'}{flag.choices[0]}",
                )
            return text
        case "cells":
            if not _CELLS.fullmatch(text):
                raise UsageError(f"{text!r} names no cells", hint=f"--{flag.name} {flag.metavar}")
            return text
        case _:
            return text


_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0}


def _number(flag: Flag, text: str, *, whole: bool = False) -> float:
    try:
        number: float = int(text) if whole else float(text)
    except ValueError:
        kind = "a whole number" if whole else "a number"
        raise UsageError(
            f"{text!r} is no value for --{flag.name}, which is {kind}", hint=flag.spelling
        ) from None
    if flag.kind != "int" and not 0 <= number < float("inf"):
        raise UsageError(f"--{flag.name} cannot be {text}", hint=f"--{flag.name} 0 or more")
    return number
