"""The table in words: ``?`` help, ``--help`` and the README's reference."""

from __future__ import annotations

from deepseek_lab.notebook.grammar import COMMON_FLAGS, VERBS, Flag, Form, Verb
from deepseek_lab.notebook.parse import PREFIXES


def usage(verb: Verb, form: Form) -> str:
    """One usage line: the prefix, the verb, operands and the verb's own flags."""
    words = [PREFIXES[form], verb.words]
    if form == "script" and "cell" in verb.forms:
        return " ".join([*words, "[flags]", "SCRIPT.py", "[ARGUMENT ...]"])
    return " ".join(
        [*words, *(operand.spelling for operand in verb.operands), "[flags]" if verb.common else ""]
    ).strip()


def _flag_lines(flags: tuple[Flag, ...]) -> list[str]:
    width = max((len(flag.spelling) for flag in flags), default=0)
    return [
        f"  {flag.spelling:<{width}}  {flag.help}" + (f" (default: {flag.default})" if flag.default else "")
        for flag in flags
    ]


def verb_help(name: str) -> str:
    """Everything that can be typed after one verb."""
    verb = VERBS[name]
    lines = [f"{verb.words}: {verb.promise}", "", *(f"  {usage(verb, form)}" for form in verb.forms)]
    if verb.operands:
        width = max(len(operand.name) for operand in verb.operands)
        lines += ["", *(f"  {operand.name:<{width}}  {operand.help}" for operand in verb.operands)]
    if verb.flags:
        lines += ["", "Flags", *_flag_lines(verb.flags)]
    if verb.common:
        own = {flag.name for flag in verb.flags}
        common = tuple(flag for flag in COMMON_FLAGS if flag.name not in own)
        lines += ["", "Flags that every verb has", *_flag_lines(common)]
    if verb.examples:
        width = max(len(text) for text, _ in verb.examples)
        lines += ["", "Examples", *(f"  {text:<{width}}  {meaning}" for text, meaning in verb.examples)]
    return "\n".join(lines)


def overview(form: Form = "line") -> str:
    """All verbs with their promises."""
    shown = [verb for verb in VERBS.values() if form != "script" or "script" in verb.forms]
    width = max(len(verb.words) for verb in shown)
    lines = [f"  {verb.words:<{width}}  {verb.promise}" for verb in shown]
    if form == "script":
        head = ["python -m deepseek_lab VERB [flags] [SCRIPT.py [ARGUMENT ...]]"]
    else:
        head = [
            "%%deepseek VERB [TARGET ...] [flags]   a region: this cell             %%ds_VERB is the same",
            "%deepseek VERB [TARGET ...] [flags]    on objects or the last report   %ds_VERB is the same",
        ]
    return "\n".join([*head, "", *lines, "", f"{PREFIXES[form]} VERB --help shows the flags of one verb."])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _markdown_flags(flags: tuple[Flag, ...]) -> list[str]:
    rows = [f"| `{_cell(flag.spelling)}` | {_cell(flag.help)} | {_cell(flag.default)} |" for flag in flags]
    return ["| flag | what it does | default |", "| --- | --- | --- |", *rows]


def reference_markdown() -> str:
    """The README's reference of every verb, rendered from the table."""
    lines = ["| verb | what it does | cell | line | script |", "| --- | --- | --- | --- | --- |"]
    for verb in VERBS.values():
        forms = " | ".join("yes" if form in verb.forms else "" for form in ("cell", "line", "script"))
        lines.append(f"| `{verb.words}` | {_cell(verb.promise)} | {forms} |")
    lines += ["", "Flags that every verb has (all but `on` and `off`):", "", *_markdown_flags(COMMON_FLAGS)]
    for verb in VERBS.values():
        lines += ["", f"### {verb.words}", "", "```", *(usage(verb, form) for form in verb.forms), "```"]
        if verb.operands:
            lines += ["", *(f"- `{operand.name}`: {operand.help}" for operand in verb.operands)]
        if verb.flags:
            lines += ["", *_markdown_flags(verb.flags)]
        if verb.examples:
            lines += ["", *(f"- `{text}`: {meaning}" for text, meaning in verb.examples)]
    return "\n".join(lines) + "\n"
