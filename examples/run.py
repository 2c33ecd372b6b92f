"""Run a notebook in a real kernel and print what its cells tagged ``result`` show.

    python examples/run.py examples/quickstart.ipynb [--save executed.ipynb]

Exits with 1, after the cell's own traceback, when a cell fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

CELL_TIMEOUT_S = 900


def execute(path: Path) -> tuple[NotebookNode, str]:
    """The notebook with its outputs, run in its own folder, and the error that ended it, if any."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=CELL_TIMEOUT_S, resources={"metadata": {"path": str(path.resolve().parent)}}
    )
    with tempfile.TemporaryDirectory() as sockets:
        kernel = client.create_kernel_manager()
        kernel.transport, kernel.ip = "ipc", f"{sockets}/kernel"
        try:
            client.execute()
        except CellExecutionError as error:
            return notebook, str(error)
    return notebook, ""


def results(notebook: NotebookNode) -> Iterator[tuple[str, str]]:
    """(source, text) of every executed cell tagged ``result``."""
    for cell in notebook.cells:
        if "result" not in cell.metadata.get("tags", ()) or not cell.execution_count:
            continue
        texts = [
            output.data["text/plain"] for output in cell.outputs if "text/plain" in output.get("data", {})
        ]
        yield cell.source, "\n".join(texts) or "(showed nothing)"


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a notebook and print its results.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--save", type=Path, help="write the executed notebook here")
    options = parser.parse_args()
    print(f"running {options.notebook} ...", flush=True)
    notebook, error = execute(options.notebook)
    if options.save:
        nbformat.write(notebook, options.save)
    for source, text in results(notebook):
        print(f"\n[{source}]\n{text}")
    if error:
        print(f"\n{error}", file=sys.stderr)
    return 1 if error else 0


if __name__ == "__main__":
    raise SystemExit(main())
