"""What a page may ask beside a run's news: whether every cell is a region, and to change that."""

from __future__ import annotations

from typing import Any

from deepseek_lab.base.errors import DeepseekError
from deepseek_lab.notebook import verbs
from deepseek_lab.notebook.host import Host
from deepseek_lab.notebook.parse import parse
from deepseek_lab.notebook.plan import plan
from deepseek_lab.views import live


def _state(host: Host) -> dict[str, Any]:
    return {"state": "on", "always": str(host.always)} if host.always else {"state": "off"}


def accept(host: Host) -> None:
    """Answer pages for as long as the extension is loaded."""

    def turn(message: dict[str, Any]) -> dict[str, Any]:
        try:
            verbs.run(plan(parse([message["ask"]], "line"), host.namespace), host)
        except DeepseekError as error:
            return {**_state(host), "error": str(error)}
        return _state(host)

    if live.listen():
        live.answer("state", lambda _: _state(host))
        live.answer("on", turn)
        live.answer("off", turn)


def announce(host: Host) -> None:
    """Tell pages that it has changed."""
    live.announce(_state(host))


def refuse() -> None:
    """Accept nothing more from pages."""
    live.unlisten()
