"""How a kernel knows that the Jupyter server which started it shows its studies: kernels inherit its environment."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

_VARIABLE = "DEEPSEEK_LAB_JUPYTER"
ROOM = "deepseek-lab/studies"
"""Where studies are under a server's base URL."""


@dataclasses.dataclass(frozen=True)
class Beside:
    """A Jupyter server that shows studies."""

    pid: int
    base_url: str
    folder: str
    """Whose studies it shows."""
    info: str = ""
    """The file in which it says where it listens."""

    def advertise(self) -> None:
        """Tell every kernel that this process starts from now on."""
        os.environ[_VARIABLE] = json.dumps(dataclasses.asdict(self))

    @property
    def path(self) -> str:
        """Of its list of studies, from the top of the server."""
        return f"{self.base_url.rstrip('/')}/{ROOM}/"

    @property
    def url(self) -> str | None:
        """The same as an address for this machine, where the server says which; its token is not in it."""
        try:
            found = json.loads(Path(self.info).read_text(encoding="utf-8"))["url"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return f"{found.rstrip('/')}/{ROOM}/" if isinstance(found, str) else None


def found(folder: Path) -> Beside | None:
    """The server that started this process, if it shows the studies of a folder.

    What a process further up has left in the environment is of another server, and says nothing.
    """
    try:
        made = Beside(**json.loads(os.environ[_VARIABLE]))
        parent = int(os.environ["JPY_PARENT_PID"])
    except (KeyError, ValueError, TypeError):
        return None
    return made if made.pid == parent and made.folder == str(folder.resolve()) else None
