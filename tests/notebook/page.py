"""A front end for tests: comms over a subshell, and the packed tables that come over them."""

from __future__ import annotations

import base64
import json
import queue
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

from kernel import Kernel


class Page:
    """A front end: comms over a subshell, as JupyterLab opens them."""

    def __init__(self, kernel: Kernel) -> None:
        self.client = kernel.client
        request = self.client.session.msg("create_subshell_request", {})
        self.client.control_channel.send(request)
        self.subshell = self.client.control_channel.get_msg(timeout=10)["content"]["subshell_id"]
        self.heard: list[tuple[float, str, dict[str, Any]]] = []
        self.displays: list[dict[str, Any]] = []
        self.idle: set[str] = set()
        self.answers = True

    def send(self, kind: str, **content: Any) -> str:
        message = self.client.session.msg(kind, content)
        message["header"]["subshell_id"] = self.subshell
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def listen(self, until: Callable[[], Any], timeout_s: float = 30) -> None:
        deadline = time.monotonic() + timeout_s
        while not until():
            assert time.monotonic() < deadline, f"nothing came: {[item[1] for item in self.heard][-5:]}"
            try:
                message = self.client.get_iopub_msg(timeout=0.2)
            except queue.Empty:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind in {"display_data", "update_display_data"}:
                self.displays.append(content["data"])
            elif kind == "status" and content["execution_state"] == "idle":
                self.idle.add(message["parent_header"].get("msg_id", ""))
            elif kind in {"comm_msg", "comm_close"}:
                self.heard.append((time.monotonic(), kind, content))
                if kind == "comm_msg" and self.answers and "number" in content["data"]:
                    data = {"seen": content["data"]["number"]}
                    self.send("comm_msg", comm_id=content["comm_id"], data=data)

    def run_of(self) -> str:
        """The run that was displayed last."""
        return str(self.displays[-1]["application/vnd.deepseek-lab.v1+json"]["run"])

    def of(self, comm: str) -> list[dict[str, Any]]:
        return [
            content["data"]
            for _, kind, content in self.heard
            if kind == "comm_msg" and content["comm_id"] == comm
        ]

    def closed(self, comm: str) -> bool:
        return any(kind == "comm_close" and content["comm_id"] == comm for _, kind, content in self.heard)


def meta(data: dict[str, Any]) -> dict[str, Any]:
    whole = zlib.decompress(base64.b64decode(data["packed"]))
    (length,) = struct.unpack_from("<I", whole)
    header: dict[str, Any] = json.loads(whole[4 : 4 + length])
    return {**header["meta"], "rows": header["rows"]}
