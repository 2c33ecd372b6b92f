"""What ranks printed, gave and failed with, as text and as static HTML: ranks that say the same stand together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape

from deepseek_lab.base.ranks import RankAnswer, RankOutput, alike, spans
from deepseek_lab.views._html import STYLE

_SHOWN = 60_000
"""Characters of a text that stay in the notebook."""


def _ranks(which: str) -> str:
    return f"rank {which}" if which.isdigit() else f"ranks {which}"


def _end(text: str) -> str:
    return (
        text
        if len(text) <= _SHOWN
        else f"... ({len(text) - _SHOWN:,} characters before this)\n{text[-_SHOWN:]}"
    )


def _groups(
    output: RankOutput, answers: Mapping[int, RankAnswer], hidden: Sequence[int]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    printed = alike({rank: output[rank] for rank in output.ranks if rank not in hidden})
    values = alike(
        {rank: one.value for rank, one in answers.items() if one.status == "ok" and rank not in hidden}
    )
    return printed, values


def ranks_text(
    output: RankOutput, answers: Mapping[int, RankAnswer], *, hidden: Sequence[int] = (), head: str = ""
) -> str:
    """Each line with the ranks that printed it, then the values of the cell's last line."""
    printed, values = _groups(output, answers, hidden)
    lines = [head] if head else []
    for which, text in printed:
        lines += [f"[{which}] {line}" for line in _end(text).rstrip("\n").split("\n")]
    lines += [f"[{which}] {text}" for which, text in values]
    return "\n".join(lines)


def ranks_html(
    output: RankOutput,
    answers: Mapping[int, RankAnswer],
    *,
    hidden: Sequence[int] = (),
    head: str = "",
    open_groups: bool = True,
    notes: Sequence[str] = (),
) -> str:
    """One group to fold for ranks that printed the same, with the values of the cell's last line."""
    printed, values = _groups(output, answers, hidden)
    is_open = " open" if open_groups else ""
    parts = [f'<p class="s">{escape(head)}</p>'] if head else []
    parts += [f"<p>{escape(note)}</p>" for note in notes]
    for which, text in printed:
        count = text.rstrip("\n").count("\n") + 1
        parts.append(
            f"<details{is_open}><summary>{_ranks(which)} ({count:,} line{'s' if count > 1 else ''})</summary>"
            f"<pre>{escape(_end(text).rstrip())}</pre></details>"
        )
    if values:
        rows = "".join(
            f'<tr><th style="vertical-align:middle">{_ranks(which)}</th>'
            f'<td><pre style="margin:0">{escape(_end(text))}</pre></td></tr>'
            for which, text in values
        )
        parts.append(f'<div class="x"><table>{rows}</table></div>')
    return f'<div class="dsl"><style>{STYLE}</style>{"".join(parts)}</div>' if parts else ""


def failure_text(answers: Mapping[int, RankAnswer], file: str, cell: str) -> str:
    """One traceback for each distinct error, then who waited for whom, in what, and what the others did instead."""

    def named(text: str) -> str:
        return re.sub(rf'File "{re.escape(file)}", line', f"{cell}, line", text) if cell else text

    lines: list[str] = []
    own = {rank: one for rank, one in answers.items() if one.status in {"error", "dead"}}
    if not own:  # nobody failed, somebody did not come
        own = {rank: one for rank, one in answers.items() if one.status == "unblocked"}
        here = spans(rank for rank, one in answers.items() if one.status == "ok")
        if here:
            lines.append(
                f"{_ranks(here)} had ended the cell while {_ranks(spans(own))} waited for it; the wait was ended"
            )
    errors = {
        rank: one.text if one.status == "dead" else f"{one.error}\0{one.text}" for rank, one in own.items()
    }
    for which, text in alike(errors):
        name, _, traceback = text.rpartition("\0")
        lines.append(f"{name} on {_ranks(which)}" if name else "")
        lines.append(named(traceback))
    waited: dict[tuple[int, str], list[int]] = {}
    for rank, one in answers.items():
        if one.waited or (one.status == "unblocked" and rank not in own):
            waited.setdefault((one.line or 0, one.waited), []).append(rank)
    for (line, what), ranks in waited.items():
        whom = "" if own.keys() >= set(ranks) else f" for {_ranks(spans(own))}"
        place = f" at line {line}" if line else ""
        lines.append(f"{_ranks(spans(ranks))} waited{whom}{place}{f' in {what}' if what else ''}")
    lines += [
        f"{_ranks(which)} {text}"
        for which, text in alike({rank: one.record for rank, one in answers.items()})
    ]
    return "\n".join(line for line in lines if line)
