from __future__ import annotations

import os
import time

import psutil

from deepseek_lab.distributed.launchers import Local
from deepseek_lab.distributed.launchers.launcher import tail
from deepseek_lab.distributed.ranks import Ranks
from deepseek_lab.processes.ends import ending


def test_another_address_and_words_before_the_command() -> None:
    made = Ranks(1, launcher=Local("127.0.0.2", prefix=lambda rank: ["env", f"PLACE=here-{rank}"]))
    made.start()
    try:
        source = (
            "import os\n(os.environ['PLACE'], os.environ['MASTER_ADDR'], os.environ['GLOO_SOCKET_IFNAME'])"
        )
        answer = made.ask("run", {"source": source, "file": "cell"}).answers[0]
        assert answer.value == "('here-0', '127.0.0.1', 'lo')"
        assert {
            one.laddr.ip
            for one in psutil.Process(os.getpid()).net_connections(kind="tcp")
            if one.status == psutil.CONN_LISTEN
        } == {"127.0.0.2"}
        process = made._ranks[0].process
        assert process is not None
        process.kill()
        assert process.wait(10)
        until = time.monotonic() + 10
        while made.states[0].state != "dead" and time.monotonic() < until:
            time.sleep(0.02)
        assert "SIGKILL" in made.states[0].why
    finally:
        made.stop()


def test_words_about_an_end() -> None:
    assert ending(3) == "ended with exit status 3"
    assert ending(-9) == "was ended by SIGKILL, as the system does when memory runs out"
    assert ending(-200) == "was ended by signal 200"
    assert tail(b"\n".join(b"line %d" % number for number in range(20))).splitlines()[0] == "line 12"
    fault = "Fatal Python error: Aborted\n\nThread 0x1 (most recent call first):\n" + "  File x\n" * 20
    fault += "\nCurrent thread 0x2 (most recent call first):\n  File cell\n" + "  File y\n" * 20
    assert tail(f"long before\nof C++\nbefore\n{fault}".encode()).splitlines()[:5] == [
        "of C++",
        "before",
        "Fatal Python error: Aborted",
        "Current thread 0x2 (most recent call first):",
        "  File cell",
    ]
    fault = fault.replace("Current thread 0x2", "Thread 0x2")  # the one that failed runs no Python code
    assert tail(fault.encode()).splitlines()[1:3] == ["Thread 0x2 (most recent call first):", "  File cell"]
