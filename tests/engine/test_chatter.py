"""What backends write past Python to standard error stays out of the user's cell, and nothing else does."""

from __future__ import annotations

import os

import pytest

from deepseek_lab.engine.candidates.executorch import without_lines_of


def test_only_lines_of_the_source_are_kept_out(capfd: pytest.CaptureFixture[str]) -> None:
    os.write(2, b"before\n")

    def chatter() -> None:
        with without_lines_of(b"cpuinfo_utils.cpp"):
            os.write(2, b"[cpuinfo_utils.cpp:87] Failed to open midr file\nthe user's own\n")
            raise ValueError("out")

    with pytest.raises(ValueError, match="out"):
        chatter()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\nthe user's own\nafter\n"
