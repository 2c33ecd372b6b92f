"""``deepseek_lab.track``: a loop of the user's own, shown while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from deepseek_lab.base import events as ev
from deepseek_lab.monitor import Track
from deepseek_lab.notebook.host import warn
from deepseek_lab.notebook.show import Shown

T = TypeVar("T")
_SHOWN_S = 2.0
"""Pause between two pictures of a run where no page follows it."""


class ShownTrack(Shown):
    """A run as an output: its words, a picture and the view."""

    def __init__(self, run: Track[Any]) -> None:
        super().__init__("")
        self._run = run

    def to_dict(self) -> dict[str, Any]:
        """How the run stands, and every value by name."""
        return self._run.to_dict()

    def bundle(self) -> dict[str, Any]:
        """Text, a picture with the view in a frame, and data for our own front end."""
        from deepseek_lab import views

        run = self._run
        return views.run_bundle(run.id, run.log_of_events, repr(run), title=run.name, live=not run.ended)

    def __repr__(self) -> str:
        return repr(self._run)


def track(steps: Iterable[T], *, name: str = "steps", total: int | None = None) -> Track[T]:
    """Run over ``steps`` as a loop would, and show in the notebook how it goes, with a way to stop it.

    Args:
        steps: What the loop runs over: a data loader, a range, anything iterable.
        name: What the run is called.
        total: How many steps there are, where ``len(steps)`` does not say.

    Returns:
        An iterable over the same steps; ``run.log(loss=loss)`` adds what a step gave, ``run.stop()`` ends the loop.

    Raises:
        UsageError: ``steps`` cannot be run over, or ``total`` is no number of steps.

    >>> for step in (run := track(range(3), name="warm-up")):
    ...     run.log(loss=1 / (1 + step))
    >>> run.ended
    'all 3 steps'
    """
    run = Track(steps, name=name, total=total)
    if (display := _display()) is not None:
        try:
            _follow(run, display)
        except Exception as error:
            warn(f"{name} is not shown ({type(error).__name__}: {error}); the loop is not affected")
    return run


def _display() -> Callable[..., Any] | None:
    """The notebook's own way to show something; None outside of one."""
    import sys

    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    shown: Callable[..., Any] = display
    return shown


def _follow(run: Track[Any], display: Callable[..., Any]) -> None:
    from deepseek_lab import views
    from deepseek_lab.views import live

    shown = ShownTrack(run)
    source = live.Source(
        run.id, run.log_of_events, run.stop, ended=lambda: bool(run.ended), stopping=lambda: run.stopping
    )
    live.listen()
    live.offer(source)
    bundle = shown.bundle()
    widget = views.live_widget(source, bundle)
    if widget is not None:
        handle = display(bundle | widget.data, metadata=widget.metadata, raw=True, display_id=True)
    else:
        handle = display(bundle, raw=True, display_id=True)
    last_s = time.monotonic()

    def heard(event: ev.Event) -> None:
        nonlocal last_s
        final = isinstance(event, ev.RunEnded)
        if final:
            live.withdraw(run.id)
        elif (
            not isinstance(event, ev.Progressed)
            or time.monotonic() - last_s < _SHOWN_S
            or widget is not None
            or live.watched(run.id)
        ):
            return
        last_s = time.monotonic()
        try:
            handle.update(shown.bundle(), raw=True)
        except Exception as error:
            warn(f"{run.name} could not be shown anew ({type(error).__name__}: {error})")
        if widget is not None and final:
            widget.close()

    run.log_of_events.listen(heard)
    _close_with_cell(run)


def _close_with_cell(run: Track[Any]) -> None:
    """A loop that a cell leaves early has no other end than the cell's."""
    from IPython import get_ipython

    shell: Any = get_ipython()  # type: ignore[no-untyped-call, unused-ignore]

    def ended(result: Any) -> None:
        shell.events.unregister("post_run_cell", ended)
        if run.ended:
            return
        error = getattr(result, "error_in_exec", None)
        words = f"{run.done:,} step{'' if run.done == 1 else 's'}"
        run.end(f"{type(error).__name__} after {words}" if error is not None else f"left after {words}")

    shell.events.register("post_run_cell", ended)
