"""``python -m deepseek_lab``: the same table in a terminal, against the recording engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from kernel import HERE, ROOT

START = "import sys, recording_engine; api = recording_engine.install(); import deepseek_lab.notebook.script as s; "


def _python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)])}
    return subprocess.run(
        [sys.executable, *arguments],
        env=env,
        cwd=cwd,
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )


def _main(*words: str, cwd: Path, after: str = "") -> subprocess.CompletedProcess[str]:
    code = f"{START}code = s.main({list(words)!r}); {after or 'pass'}; sys.exit(code)"
    return _python("-c", code, cwd=cwd)


def test_help_and_usage(tmp_path: Path) -> None:
    done = _python("-m", "deepseek_lab", cwd=tmp_path)
    assert done.returncode == 0
    assert "optimize" in done.stdout
    assert "status" not in done.stdout
    assert "--precision" in _python("-m", "deepseek_lab", "optimize", "--help", cwd=tmp_path).stdout
    wrong = _python("-m", "deepseek_lab", "optimise", cwd=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr == "UsageError: there is no verb 'optimise'\n  try: python -m deepseek_lab optimize\n"


def test_config_and_doctor(tmp_path: Path) -> None:
    assert "race_budget_s" in _python("-m", "deepseek_lab", "config", cwd=tmp_path).stdout
    refused = _python("-m", "deepseek_lab", "config", "min_gain", "1.1", cwd=tmp_path)
    assert refused.returncode == 2
    assert "export DEEPSEEK_LAB_MIN_GAIN=1.1" in refused.stderr
    assert "make kernels" in _main("doctor", cwd=tmp_path).stdout


def test_script_runs_as_main_inside_a_region(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("value = 7\n")
    (tmp_path / "job.py").write_text(
        "import sys, beside\nfrom recording_engine import api\n"
        "print(__name__, sys.argv, beside.value)\nrun = api.recorded[-1]\n"
        "print(run.asked['namespace']['beside'].value, run.asked['observe'], run.asked['cell'])\n"
        "run.capture()\nrun.decide()\n"
    )
    done = _main(
        "optimize",
        "--save",
        "r.json",
        "job.py",
        "--epochs",
        "3",
        cwd=tmp_path,
        after="print(api.recorded[-1].closed)",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["__main__ ['job.py', '--epochs', '3'] 7", "7 True job.py", "[False]"]
    assert "optimize  2.00x" in done.stderr


def test_failing_script_fails_with_its_own_traceback(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text("def f():\n    1 / 0\n\nf()\n")
    done = _main("optimize", "job.py", cwd=tmp_path, after="print(api.recorded[-1].closed)")
    assert (done.returncode, done.stdout) == (1, "[True]\n")
    assert done.stderr.count("File") == 2
    assert "runpy" not in done.stderr
    (tmp_path / "job.py").write_text("raise SystemExit(4)\n")
    assert _main("optimize", "job.py", cwd=tmp_path).returncode == 4
    missing = _main("optimize", "nowhere.py", cwd=tmp_path)
    assert missing.returncode == 2
    assert "nowhere.py cannot be read" in missing.stderr
