"""The project as a whole: what is packaged, what an import costs, what the files may name."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as it would be published: through the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(repository)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (built,) = folder.glob("*.whl")
    return built


def _modules_after(statement: str, *, path: Path | None = None) -> set[str]:
    """Names in ``sys.modules`` of a fresh process that ran ``statement``."""
    code = f"import sys\n{f'sys.path.insert(0, {str(path)!r})' if path else ''}\n{statement}\n"
    code += "import json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd="/")
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_wheel_holds_the_kernels_once_and_nothing_compiled(wheel: Path, repository: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert len(names) == len(set(names))
    sources = [
        path.relative_to(repository / "kernels").as_posix()
        for path in (repository / "kernels").rglob("*")
        if path.suffix in {".cpp", ".hpp", ".h", ".inl", ".py"}
    ]
    assert sources
    packaged = [name for name in names if "kernels/" in name and "candidates/" not in name]
    assert sorted(packaged) == sorted(f"deepseek_lab/_kernels/{source}" for source in sources)
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc"))]


def test_wheel_holds_only_the_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith((".dist-info", ".data"))} == {"deepseek_lab"}
    shared = {name.split("/data/", 1)[1] for name in names if ".data/" in name}
    assert shared, "make setup builds the front end"
    server = "etc/jupyter/jupyter_server_config.d/deepseek_lab.json"
    assert server in shared
    shared.remove(server)
    assert all(name.startswith("share/jupyter/labextensions/deepseek-lab/") for name in shared)


def test_wheel_holds_the_front_end_once(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert sum(name.endswith("labextensions/deepseek-lab/package.json") for name in names) == 1
    assert any("labextensions/deepseek-lab/static/remoteEntry" in name for name in names)
    assert any(name.endswith("labextensions/deepseek-lab/install.json") for name in names)
    assert not any(name.startswith("deepseek_lab/labextension/") for name in names)
    assert {"deepseek_lab/views/_static/page-graph.js", "deepseek_lab/server/prelude.js"} <= set(names)


def test_wheel_imports_in_a_fresh_process(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    check = "import deepseek_lab, deepseek_lab._kernels as k; assert k.__file__.startswith(sys.path[0]), k.__file__"
    assert "deepseek_lab._kernels" in _modules_after(check, path=tmp_path)


def test_editable_install_finds_the_kernels(repository: Path) -> None:
    link = repository / "deepseek_lab" / "_kernels"
    assert link.resolve() == repository / "kernels"
    assert not Path(link.readlink()).is_absolute()


@pytest.mark.parametrize("heavy", ["torch", "IPython", "numpy", "ipywidgets", "plotly"])
def test_importing_the_package_imports_nothing_heavy(heavy: str) -> None:
    assert heavy not in _modules_after("import deepseek_lab")


def test_base_imports_only_the_standard_library(repository: Path) -> None:
    foreign = set()
    for path in (repository / "deepseek_lab" / "base").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            foreign |= {
                name
                for name in names
                if name.split(".")[0] not in sys.stdlib_module_names
                and not name.startswith("deepseek_lab.base")
            }
    assert foreign == set()


def test_every_entry_point_leads_to_a_module(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for group in project["entry-points"].values():
        for name, value in group.items():
            module = value.split(":")[0].replace(".", "/")
            assert (repository / f"{module}.py").exists(), f"{name} = {value}"


def test_torch_is_pinned_in_one_place(repository: Path) -> None:
    pins = [path for path in _tracked(repository) if re.search(r"torch={2,3}\d", _text(path))]
    assert pins == [repository / "constraints.txt"]


def test_no_file_names_a_registry_host(repository: Path) -> None:
    # Spelt in parts, so that this file does not name one either.
    hosts = [
        ".".join(parts)
        for parts in (
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("npmjs", "org"),
            ("npmjs", "com"),
            ("yarnpkg", "com"),
            ("deb", "debian", "org"),
            ("download", "pytorch", "org"),
        )
    ]
    found = [(path.name, host) for path in _tracked(repository) for host in hosts if host in _text(path)]
    assert found == []


def test_example_notebooks_are_kept_without_outputs(repository: Path) -> None:
    notebooks = sorted((repository / "examples").glob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        cells = json.loads(_text(path))["cells"]
        assert not [cell["id"] for cell in cells if cell.get("outputs") or cell.get("execution_count")], (
            path.name
        )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _tracked(repository: Path) -> list[Path]:
    """Files that git tracks or would track."""
    command = ["git", "-C", str(repository), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    paths = [repository / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]
