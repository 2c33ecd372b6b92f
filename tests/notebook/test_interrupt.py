"""The interrupt: the first ends measuring, the second the cell."""

from __future__ import annotations

import time

from kernel import Kernel

LOOP = "import time\nprint('started', flush=True)\nfor _ in range(600): time.sleep(0.02)\nended = True"


def test_without_work_the_first_interrupt_interrupts_the_cell(recording: Kernel) -> None:
    outcome = recording.run("%%deepseek optimize\n" + LOOP, during=recording.manager.interrupt_kernel)
    assert outcome.ename == "KeyboardInterrupt"
    assert "interrupt.py" not in outcome.traceback.split("KeyboardInterrupt")[-1]
    assert recording.value("(api.recorded[-1].closed, api.recorded[-1].interrupted)") == "([True], 0)"


def test_first_interrupt_ends_the_work_and_the_cell_goes_on(recording: Kernel) -> None:
    code = "%%deepseek optimize -q\nrun = api.recorded[-1]\nrun.capture()\n" + LOOP.replace("600", "100")
    outcome = recording.run(code, during=recording.manager.interrupt_kernel)
    assert outcome.status == "ok", outcome.traceback
    assert "interrupt once more" in outcome.stderr
    assert recording.value("(run.interrupted, run.closed, ended)") == "(1, [False], True)"


def test_second_interrupt_interrupts_the_cell(recording: Kernel) -> None:
    def twice() -> None:
        recording.manager.interrupt_kernel()
        time.sleep(0.5)
        recording.manager.interrupt_kernel()

    code = "%%deepseek optimize -q\nrun = api.recorded[-1]\nrun.capture()\n" + LOOP
    outcome = recording.run(code, during=twice)
    assert outcome.ename == "KeyboardInterrupt"
    assert recording.value("(run.interrupted, run.closed)") == "(1, [True])"


def test_interrupt_while_waiting_ends_the_wait(recording: Kernel) -> None:
    code = (
        "%%deepseek optimize -q --wait 60\nrun = api.recorded[-1]\nrun.capture()\nprint('x', flush=True)\n5"
    )

    def later() -> None:
        time.sleep(0.5)
        recording.manager.interrupt_kernel()

    outcome = recording.run(code, during=later, timeout_s=30)
    assert (outcome.status, outcome.result) == ("ok", "5")
    assert recording.value("run.interrupted") == "1"


def test_awaiting_cell(recording: Kernel) -> None:
    code = "%%deepseek optimize -q\nrun = api.recorded[-1]\nimport asyncio\nprint('x', flush=True)\n"
    code += "for _ in range(900): await asyncio.sleep(0.02)"
    outcome = recording.run(code, during=recording.manager.interrupt_kernel, timeout_s=30)
    assert outcome.status == "error"
    assert recording.value("run.closed") == "[True]"


def test_handler_is_restored(recording: Kernel) -> None:
    recording.ok("import signal")
    recording.ok("before = signal.getsignal(signal.SIGINT)")
    recording.ok("%%deepseek optimize\nduring = signal.getsignal(signal.SIGINT)")
    recording.ok("after = signal.getsignal(signal.SIGINT)")
    assert recording.value("(before is after, during is before)") == "(True, False)"
    recording.ok("%%deepseek optimize\nold = signal.signal(signal.SIGINT, signal.SIG_IGN)")
    recording.ok("signal.signal(signal.SIGINT, before)")
