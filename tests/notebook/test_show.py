"""What the magics show as text, whatever names and errors hold."""

from __future__ import annotations

import json

import pytest

from deepseek_lab.notebook.show import Shown


@pytest.mark.parametrize("text", ["plain", "half \ud800 of a character", "\udcff", "\x00 and \u2028"])
def test_text_can_be_sent_by_a_kernel(text: str) -> None:
    shown = Shown(text)
    sent = json.loads(json.dumps(shown.bundle(), ensure_ascii=False).encode("utf-8"))
    assert sent == {"text/plain": text.encode("utf-8", "replace").decode()}
    assert repr(shown) == text
