"""Pages that are there before optuna-dashboard is: the list of studies, and why there is nothing to see yet."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from deepseek_lab.server.messages import Answer

_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #8886; overflow-wrap: anywhere }
td + td, th + th { white-space: nowrap; overflow-wrap: normal }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def listed(files: Sequence[tuple[str, Path]]) -> Answer:
    """Links to studies, given by their names and files."""
    rows = []
    for name, file in files:
        try:
            state = file.stat()
        except OSError:
            continue  # it went away meanwhile
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(state.st_mtime))
        rows.append(
            f'<tr><td><a href="{quote(name, safe="")}/">{html.escape(name)}</a></td>'
            f"<td>{when}</td><td>{_size(state.st_size)}</td></tr>"
        )
    if not rows:
        return _page(
            "Studies", "<p>No studies yet. <code>%%deepseek hpo --metric accuracy</code> makes one.</p>"
        )
    head = "<tr><th>study</th><th>last change</th><th>size</th></tr>"
    return _page("Studies", f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>")


def waiting() -> Answer:
    """Comes again by itself."""
    text = "<p role='status'>optuna-dashboard is being loaded; the first time that takes some seconds.</p>"
    return _page("Loading", text, head='<meta http-equiv="refresh" content="1">')


def refusal(status: int, message: str, hint: str = "") -> Answer:
    """Why there is no page, and what to type."""
    more = f"<p>try: <code>{html.escape(hint)}</code></p>" if hint else ""
    return _page("Studies", f"<p>{html.escape(message)}</p>{more}", status=status)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1024:.0f} KiB" if num_bytes < 2**20 else f"{num_bytes / 2**20:.1f} MiB"


def _page(title: str, body: str, *, head: str = "", status: int = 200) -> Answer:
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>{head}'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{title}</h1>{body}</main></body></html>"
    )
    headers = {"content-type": "text/html; charset=utf-8", "content-security-policy": _POLICY}
    return Answer(status, text.encode(), headers)
