"""Live outputs where the front end has widgets and not our extension, through a real kernel."""

from __future__ import annotations

import base64
import itertools
import json
import queue
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from kernel import Kernel

from deepseek_lab.views import explorable

WIDGET = "application/vnd.jupyter.widget-view+json"
OURS = "application/vnd.deepseek-lab.v1+json"
LOOP = """
import time
for step in (run := deepseek_lab.track(range({steps}), name="training")):
    run.log(loss=step)
    time.sleep({pause})
"""
pytestmark = pytest.mark.skipif(not explorable(), reason="the front end was not built")


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    made.ok("%load_ext deepseek_lab\nimport deepseek_lab")
    yield made
    made.stop()


class Heard:
    """Everything that the kernel sends while one cell runs."""

    def __init__(self, kernel: Kernel, code: str, *, allow_stdin: bool = True) -> None:
        self.opened: dict[str, dict[str, Any]] = {}
        self.closed: list[str] = []
        self.packed: list[tuple[float, str]] = []
        self.displays: list[dict[str, Any]] = []
        client = kernel.client
        cell = client.execute(code, allow_stdin=allow_stdin)
        deadline = time.monotonic() + 60
        idle_at = None
        while idle_at is None or time.monotonic() - idle_at < 0.5:
            assert time.monotonic() < deadline
            try:
                message = client.get_iopub_msg(timeout=0.2)
            except queue.Empty:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind in {"display_data", "update_display_data"}:
                self.displays.append(content["data"])
            elif kind == "comm_open":
                self.opened[content["comm_id"]] = content["data"]["state"]
            elif kind == "comm_close":
                self.closed.append(content["comm_id"])
            elif kind == "comm_msg":
                packed = content["data"].get("state", {}).get("packed")
                if packed:
                    self.packed.append((time.monotonic(), packed))
            elif (
                kind == "status"
                and message["parent_header"].get("msg_id") == cell
                and content["execution_state"] == "idle"
            ):
                idle_at = time.monotonic()

    def models(self, trait: str) -> list[str]:
        return [comm for comm, state in self.opened.items() if trait in state]


def meta(packed: str) -> dict[str, Any]:
    whole = zlib.decompress(base64.b64decode(packed))
    (length,) = struct.unpack_from("<I", whole)
    header: dict[str, Any] = json.loads(whole[4 : 4 + length])
    return {**header["meta"], "rows": header["rows"]}


def test_each_run_has_a_model_and_all_share_one_module(kernel: Kernel) -> None:
    first = Heard(kernel, LOOP.format(steps=1500, pause=0.001))
    (library,) = first.models("code")
    (run,) = first.models("payload")
    assert first.opened[run]["library"] == f"IPY_MODEL_{library}"
    assert first.displays[0][WIDGET]["model_id"] == run
    assert first.displays[0][OURS]["live"] is True
    told = [meta(packed) for _, packed in first.packed]
    assert [one["values"] for one in told] == sorted(one["values"] for one in told)
    assert all(one["state"] == "live" and one["rows"] <= 1_500 for one in told)
    second = Heard(kernel, LOOP.format(steps=10, pause=0.001))
    assert second.models("code") == []
    assert len(second.models("payload")) == 1


def test_nothing_live_is_left_behind(kernel: Kernel) -> None:
    heard = Heard(kernel, LOOP.format(steps=20, pause=0.001))
    (run,) = heard.models("payload")
    assert heard.closed == [run]
    assert WIDGET not in heard.displays[-1]
    assert "live" not in heard.displays[-1][OURS]
    assert "<iframe" in heard.displays[-1]["text/html"]


def test_a_batch_gets_no_widget(kernel: Kernel) -> None:
    heard = Heard(kernel, LOOP.format(steps=20, pause=0.001), allow_stdin=False)
    assert heard.opened == {}
    assert all(WIDGET not in shown for shown in heard.displays)


def test_messages_are_few_and_bounded(kernel: Kernel) -> None:
    heard = Heard(kernel, LOOP.format(steps=4000, pause=0.001))
    times = [at for at, _ in heard.packed]
    assert times
    assert all(later - earlier > 0.3 for earlier, later in itertools.pairwise(times))
    assert max(len(packed) for _, packed in heard.packed) < 60_000


def test_a_wish_to_stop_is_heard(kernel: Kernel) -> None:
    """By a kernel that listens: a run that goes on after its cell, as that of an optimised one does."""
    code = """
import threading
run = deepseek_lab.track(range(1_000_000), name="in the background")
def work():
    for step in run:
        time.sleep(0.001)
import time
threading.Thread(target=work, daemon=True).start()
time.sleep(1)
"""
    heard = Heard(kernel, code)
    (model,) = heard.models("payload")
    message = kernel.client.session.msg(
        "comm_msg", {"comm_id": model, "data": {"method": "custom", "content": {"do": "stop"}}}
    )
    kernel.client.shell_channel.send(message)
    said = kernel.ok("time.sleep(0.5); print(run.ended)").stdout
    assert said.startswith(("stopped after", "left after"))
