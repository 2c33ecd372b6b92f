"""``python -m deepseek_lab VERB ...``: the same table, without a notebook."""

from __future__ import annotations

import runpy
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from deepseek_lab.base.errors import DeepseekError, TargetError
from deepseek_lab.notebook import verbs
from deepseek_lab.notebook.help import overview, verb_help
from deepseek_lab.notebook.host import Cell, ScriptHost, say, warn
from deepseek_lab.notebook.interrupt import Interrupts
from deepseek_lab.notebook.parse import Command, parse
from deepseek_lab.notebook.plan import Plan, plan


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 2 for what was typed, 1 for a script that failed."""
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in {"--help", "-h"}:
        say(overview("script"))
        return 0
    try:
        command = parse(words, "script")
        if command.has("help"):
            say(verb_help(command.verb))
            return 0
        if command.script:
            return _run_script(command)
        host = ScriptHost()
        shown = verbs.run(plan(command, host.namespace), host)
    except DeepseekError as error:
        say(f"{type(error).__name__}: {error}", error=True)
        return 2
    if shown is not None:
        say(repr(shown))
    return 0


def _run_script(command: Command) -> int:
    path, *arguments = command.script
    try:
        source = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise TargetError(
            f"{path} cannot be read ({error.strerror})", hint="the path of a Python script"
        ) from None
    made = Plan(command)
    if command.has("dry-run"):
        say(str(made))
        return 0
    # Imported first, so that modules are watched from the script's first line on.
    import torch  # noqa: F401

    sys.argv = [path, *arguments]
    sys.path.insert(0, str(Path(path).resolve().parent))
    interrupts = Interrupts()
    holds = interrupts.enter()
    region: verbs.Region | None = None
    status = 1
    try:
        try:
            region = verbs.open_region(made, Cell(path, source, 1), ScriptHost(source))
        except Exception as error:
            warn(f"{command.verb} did not start ({type(error).__name__}: {error}); the script runs as it is")
        status = _run_main(path)
    finally:
        try:
            if region is not None:
                region.close(status != 0)
        except Exception as error:
            warn(f"the report could not be made ({type(error).__name__}: {error})")
        finally:
            if holds:
                interrupts.leave()
    return status


def _run_main(path: str) -> int:
    main_module = sys.modules["__main__"]
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as stop:
        if isinstance(stop.code, str):
            say(stop.code, error=True)
            return 1
        return int(stop.code or 0)
    except (Exception, KeyboardInterrupt) as error:
        traceback.print_exception(type(error), error, _inside(error.__traceback__, path))
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    finally:
        sys.modules["__main__"] = main_module
    return 0


def _inside(trace: TracebackType | None, path: str) -> TracebackType | None:
    """The traceback from the script's own first frame on."""
    step = trace
    while step is not None:
        if step.tb_frame.f_code.co_filename == path:
            return step
        step = step.tb_next
    return trace
