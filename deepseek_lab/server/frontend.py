"""optuna-dashboard's page and script, for an address with something before it.

They are made for the top of a server: the page asks for ``/static/bundle.js``, the script for ``/api/studies``, its
router knows ``/dashboard``. A page learns from where its own script came what stands before, so that it works behind
any proxy, also one that the server knows nothing of.
"""

from __future__ import annotations

import re
from pathlib import Path

from deepseek_lab.base.errors import TargetError
from deepseek_lab.server.messages import up

SCRIPT = "static/bundle.js"
_PRELUDE = Path(__file__).with_name("prelude.js")
_LINK = re.compile(r'\b(src|href|action)="/(?!/)')
_ROUTER = re.compile(
    r'(?<=,\{)(?=children:\(0,\w+\.jsxs\)\(\w+,\{children:\[\(0,\w+\.jsx\)\(\w+,\{path:\w+\+"/studies/:)'
)
"""Before the children of the router, which are its routes."""
_ASKED = re.compile(r"`\$\{this\.baseURL\}/api/")
_BACKTICK = re.compile(r"`/(api|artifacts|csv|static)(?=/)")
_QUOTED = re.compile(r"""(["'])/(api|artifacts|csv|static)(?=/)""")


def page(text: str, path: str) -> str:
    """HTML whose addresses are relative to the path that it is shown at."""
    return _LINK.sub(lambda found: f'{found[1]}="{up(path)}', text)


def script(text: str, version: str) -> str:
    """The script with what ``prelude.js`` finds out before all of its addresses.

    Raises:
        TargetError: it is not written as this knows it, and would ask in the wrong places.
    """
    text, routers = _ROUTER.subn("basename:studyRoot,", text)
    text, asked = _ASKED.subn("`${studyRoot}/api/", text)
    if routers != 1 or not asked:
        raise TargetError(
            f"the pages of optuna-dashboard {version} are written in a way that is not known here",
            hint='pip install "optuna-dashboard==0.21.*"',
        )
    text = _BACKTICK.sub(r"`${studyRoot}/\1", text)
    text = _QUOTED.sub(r"studyRoot+\1/\2", text)
    return _PRELUDE.read_text(encoding="utf-8") + text
