"""IPython where it is not at home: a process that runs cells of the notebook, some of which hold magics."""

from __future__ import annotations

import sys
from typing import Any


def provide(names: dict[str, Any]) -> None:
    """Have ``get_ipython`` among the names of ``__main__``: a shell without history, colours or hooks."""
    if "get_ipython" in names:
        return
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "NoColor"
    before = set(names)
    hooks = sys.displayhook, sys.excepthook
    shell = InteractiveShell.instance(config=config, user_module=sys.modules["__main__"], user_ns=names)
    sys.displayhook, sys.excepthook = hooks
    for name in set(names) - before:
        del names[name]  # In, Out, exit and the like, which are for typing
    names["get_ipython"] = shell.get_ipython
