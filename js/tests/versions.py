"""The front end's tests with other versions of JupyterLab, Notebook and ipykernel: ``make test-versions``.

Each has an environment of its own beside the main one, which serves everything else. Usage: ``python tests/versions.py
[NAME ...]`` in ``js/``.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = tuple(f"tests/{name}.browser.test.ts" for name in ("lab", "live", "search.live", "widget"))


@dataclasses.dataclass(frozen=True)
class Versions:
    """What is installed, and what it can do."""

    packages: tuple[str, ...]
    app: str = "lab"
    beside: bool = True
    """Whether pages are served beside a busy cell: ipykernel 7 and JupyterLab 4.4, or later."""


ALL = {
    "lab-4.2": Versions(("jupyterlab==4.2.*", "ipykernel==7.*"), beside=False),
    "lab-4.2-ipykernel-6.31": Versions(("jupyterlab==4.2.*", "ipykernel==6.31.*"), beside=False),
    "ipykernel-6.31": Versions(("jupyterlab>=4.6", "ipykernel==6.31.*"), beside=False),
    "notebook-7": Versions(("notebook>=7.5", "ipykernel>=7"), app="notebook"),
}


def environment(name: str, packages: tuple[str, ...]) -> Path:
    """An environment with these packages; all others are those of the environment that runs this."""
    place = ROOT / ".venv" / "versions" / name
    python = place / "bin" / "python"
    if not (place / ".installed").exists():
        shutil.rmtree(place, ignore_errors=True)
        venv.create(place, with_pip=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-qq", *packages, "ipywidgets", "anywidget"], check=True
        )
        mine = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        # After its own folder: what is installed here comes first.
        (Path(mine) / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
        extensions = place / "share" / "jupyter" / "labextensions"
        extensions.mkdir(parents=True, exist_ok=True)
        (extensions / "deepseek-lab").symlink_to(ROOT / "deepseek_lab" / "labextension")
        (place / ".installed").touch()
    return place / "bin"


def main(names: list[str]) -> int:
    """Run the tests with each of these versions; returns how many failed."""
    unknown = [name for name in names if name not in ALL]
    if unknown:
        print(f"not known: {', '.join(unknown)}; there are {', '.join(ALL)}", file=sys.stderr)
        return 2
    failed = []
    for name in names or list(ALL):
        versions = ALL[name]
        folder = environment(name, versions.packages)
        print(f"\n== {name}: {', '.join(versions.packages)}", flush=True)
        settings = {
            "LAB_BIN": str(folder),
            "LAB_APP": versions.app,
            "LAB_BESIDE": "yes" if versions.beside else "no",
            # The kernel of the environment, not the one of the process that runs this.
            "PATH": os.pathsep.join([str(folder), os.environ["PATH"]]),
        }
        done = subprocess.run(
            ["node_modules/.bin/vitest", "run", *TESTS], cwd=ROOT / "js", env={**os.environ, **settings}
        )
        if done.returncode != 0:
            failed.append(name)
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall pass")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
