"""A real kernel for tests: run cells, see replies and outputs, interrupt."""

from __future__ import annotations

import dataclasses
import os
import queue
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_client.manager import start_new_kernel

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclasses.dataclass
class Outcome:
    """What a front end sees of one cell."""

    status: str = ""
    ename: str = ""
    evalue: str = ""
    traceback: str = ""
    result: str | None = None
    stdout: str = ""
    stderr: str = ""
    displays: list[dict[str, str]] = dataclasses.field(default_factory=list)
    updates: list[dict[str, str]] = dataclasses.field(default_factory=list)
    count: int = 0


class Kernel:
    """One kernel process with our folders on its path."""

    def __init__(self, **environment: str) -> None:
        path = os.pathsep.join([str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": path, **environment}
        self.manager, self.client = start_new_kernel(kernel_name="python3", env=env)

    def stop(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def run(
        self,
        code: str,
        *,
        timeout_s: float = 60,
        silent: bool = False,
        during: Callable[[], None] | None = None,
    ) -> Outcome:
        """Run a cell to its end; ``during`` is called once it has printed something."""
        outcome = Outcome()
        message = self.client.execute(code, silent=silent, store_history=not silent)
        deadline = time.monotonic() + timeout_s
        while True:
            item = self.client.get_iopub_msg(timeout=max(0.1, deadline - time.monotonic()))
            kind, content = item["msg_type"], item["content"]
            if item["parent_header"].get("msg_id") != message:
                continue
            self._take(outcome, kind, content)
            if during is not None and kind == "stream":
                during()
                during = None
            if kind == "status" and content["execution_state"] == "idle":
                break
        reply = self.client.get_shell_msg(timeout=timeout_s)
        while reply["parent_header"].get("msg_id") != message:
            reply = self.client.get_shell_msg(timeout=timeout_s)
        outcome.status = reply["content"]["status"]
        outcome.count = reply["content"].get("execution_count", 0)
        return outcome

    def ok(self, code: str, **options: Any) -> Outcome:
        """Run a cell that must succeed."""
        outcome = self.run(code, **options)
        assert outcome.status == "ok", f"{outcome.ename}: {outcome.evalue}\n{outcome.traceback}"
        return outcome

    def value(self, expression: str) -> str:
        """The repr of an expression, asked silently."""
        message = self.client.execute("", silent=True, user_expressions={"value": expression})
        while True:
            reply = self.client.get_shell_msg(timeout=60)
            if reply["parent_header"].get("msg_id") == message:
                break
        found = reply["content"]["user_expressions"]["value"]
        assert found["status"] == "ok", found
        return str(found["data"]["text/plain"])

    def later(self, wanted: Callable[[str, dict[str, Any]], bool], timeout_s: float = 20) -> dict[str, Any]:
        """The first message after the cell that ``wanted`` takes."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                item = self.client.get_iopub_msg(timeout=0.5)
            except queue.Empty:
                continue
            if wanted(item["msg_type"], item["content"]):
                return dict(item["content"])
        raise AssertionError("no such message came")

    def _take(self, outcome: Outcome, kind: str, content: dict[str, Any]) -> None:
        match kind:
            case "stream" if content["name"] == "stdout":
                outcome.stdout += content["text"]
            case "stream":
                outcome.stderr += content["text"]
            case "execute_result":
                outcome.result = content["data"]["text/plain"]
            case "display_data":
                outcome.displays.append(content["data"])
            case "update_display_data":
                outcome.updates.append(content["data"])
            case "error":
                outcome.ename, outcome.evalue = content["ename"], content["evalue"]
                outcome.traceback = _ANSI.sub("", "\n".join(content["traceback"]))
