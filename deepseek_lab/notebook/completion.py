"""Completion of our magics: verbs, flags, choices, settings and targets, and nothing else beside them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

from deepseek_lab.base.settings import settings
from deepseek_lab.notebook.grammar import VERBS, Flag, Form, OperandKind, Verb
from deepseek_lab.notebook.plan import resolve

_LINE = re.compile(r"\s*(?P<percent>%%?)(?:deepseek|ds_(?P<verb>\w+))\s+(?P<words>.*)", re.DOTALL)
_CHILD = re.compile(r"(?P<owner>.+)\.(?P<start>\w*)")


def complete(text: str, namespace: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The fragment before the cursor and what it can become; None if the line is not ours."""
    match = _LINE.fullmatch(text)
    if match is None:
        return None
    form: Form = "cell" if match["percent"] == "%%" else "line"
    *words, fragment = re.split(r"\s+", match["words"])
    if match["verb"]:
        words.insert(0, match["verb"])
    if words[:1] == ["on"]:
        words, form = words[1:], "cell"
    words = _joined(words)
    candidates = _candidates(words, fragment, form, namespace)
    return fragment, [word for word in candidates if word.startswith(fragment)]


def _joined(words: list[str]) -> list[str]:
    """With a verb of two words as one."""
    name = "_".join(words[:2])
    return [name, *words[2:]] if len(words) > 1 and name in VERBS else words


def _candidates(words: list[str], fragment: str, form: Form, namespace: Mapping[str, Any]) -> Iterable[str]:
    if not words:
        return [verb.words.split()[0] for verb in VERBS.values() if form in verb.forms]
    verb = VERBS.get(words[0])
    if verb is None:
        return []
    previous = _flag(verb, words[-1])
    if previous is not None and previous.kind != "switch":
        if previous.name == "like":
            return _children(fragment, namespace)
        if previous.name in {"inputs", "optimizer", "loss", "data"}:
            return [name for name in namespace if not name.startswith("_")]
        return previous.choices if previous.kind == "choice" else ()
    if fragment.startswith("-"):
        return [f"--{flag.name}" for flag in verb.all_flags() if f"--{flag.name}" not in words]
    kind = _kind(verb, words[1:])
    if kind == "object":
        return _children(fragment, namespace)
    if kind == "report":
        return [name for name, value in namespace.items() if hasattr(getattr(value, "run", None), "report")]
    if kind == "setting":
        return [field.name for field in dataclasses.fields(settings)]
    return ()


def _flag(verb: Verb, word: str) -> Flag | None:
    return next(
        (
            one
            for one in verb.all_flags()
            if word == f"--{one.name}" or (one.short and word == f"-{one.short}")
        ),
        None,
    )


def _kind(verb: Verb, words: list[str]) -> OperandKind | None:
    given = 0
    skip = False
    for word in words:
        flag = verb.flag(word[2:]) if word.startswith("--") else None
        if skip or word.startswith("-"):
            skip = flag is not None and flag.kind != "switch" and not skip
        else:
            given += 1
    if given < len(verb.operands):
        return verb.operands[given].kind
    return verb.operands[-1].kind if verb.operands and verb.operands[-1].many else None


def in_statement(text: str) -> bool:
    """Whether the cursor is in the code behind one of our magics."""
    match = _LINE.fullmatch(text)
    if match is None or match["percent"] == "%%":
        return False
    *words, fragment = re.split(r"\s+", match["words"])
    if match["verb"]:
        words.insert(0, match["verb"])
    words = _joined(words)
    verb = VERBS.get(words[0]) if words else None
    if verb is None or not verb.takes_code or fragment.startswith("-"):
        return False
    flag = _flag(verb, words[-1]) if len(words) > 1 else None
    return flag is None or flag.kind == "switch"


def _names(text: str, completer: Any) -> SimpleMatcherResult:
    """Completion of code behind a magic, which the shell leaves alone: a name, or an attribute of one."""
    match = re.search(r"[\w.]*$", text)
    token = match.group() if match else ""
    words = completer.attr_matches(token) if "." in token else completer.global_matches(token)
    words = [*_second_words(text), *words]
    completions = [SimpleCompletion(word, type="magic") for word in words]
    return SimpleMatcherResult(completions=completions, matched_fragment=token, suppress=True)


def _second_words(text: str) -> list[str]:
    """What can follow a verb to make another one."""
    match = _LINE.fullmatch(text)
    if match is None:
        return []
    *words, fragment = re.split(r"\s+", match["words"])
    head = [match["verb"], *words] if match["verb"] else words
    if len(head) != 1:
        return []
    longer = [verb.words.split()[1:] for verb in VERBS.values() if verb.name.startswith(f"{head[0]}_")]
    return [word for word, *_ in longer if word.startswith(fragment)]


def _children(fragment: str, namespace: Mapping[str, Any]) -> list[str]:
    """Names of things that can be called; inside of a module, its children."""
    if child := _CHILD.fullmatch(fragment):
        try:
            owner = resolve(child["owner"], namespace)
        except Exception:
            return []
        modules = getattr(owner, "_modules", None)
        names = (
            list(modules) if isinstance(modules, dict) else [name for name in dir(owner) if name[0] != "_"]
        )
        return [f"{child['owner']}.{name}" for name in names if name.isidentifier()]
    return [
        name
        for name, value in namespace.items()
        if callable(value)
        and not isinstance(value, type)
        and not name.startswith("_")
        and name not in {"exit", "quit"}
    ]


def matcher(shell: Any) -> Any:
    """For ``shell.Completer.custom_matchers``; nothing else is offered on a line of ours."""

    @context_matcher(identifier="deepseek_lab")  # type: ignore[untyped-decorator, unused-ignore]
    def deepseek_matcher(context: CompletionContext) -> SimpleMatcherResult:
        if in_statement(context.text_until_cursor):
            return _names(context.text_until_cursor, shell.Completer)
        found = complete(context.text_until_cursor, shell.user_ns)
        if found is None:
            return SimpleMatcherResult(completions=[])
        fragment, words = found
        completions = [SimpleCompletion(word, type="magic") for word in words]
        return SimpleMatcherResult(completions=completions, matched_fragment=fragment, suppress=True)

    return deepseek_matcher
