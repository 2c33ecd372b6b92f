"""Searches from a notebook, in a real kernel."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel import Kernel, Outcome

from deepseek_lab.notebook import cells

CELL = """%%deepseek hpo --metric accuracy --trials 10 --workers 2 --name {name} {flags}
lr = ds.log(1e-5, 1e-1)
width = ds.choice(4, 8)
model = make(width)
accuracy = 0.0
for epoch in range(6):
    accuracy = 1 - abs(math.log10(lr) + 2) / 5 + 0.01 * width - 0.5 / (epoch + 1)
"""


def shown(outcome: Outcome) -> str:
    """All that a cell has shown, as text."""
    forms = [*outcome.displays, *outcome.updates]
    return "\n".join([outcome.result or "", outcome.stdout, *(one.get("text/plain", "") for one in forms)])


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    made.ok("%load_ext deepseek_lab\nimport math\nfrom torch import nn\nSIZE = 3")
    made.ok("def make(width): return nn.Linear(width, SIZE)")
    yield made
    made.stop()


def test_a_search_leaves_the_best_values_and_the_best_model(kernel: Kernel) -> None:
    outcome = kernel.ok(CELL.format(name="first", flags="--to found"), timeout_s=120)
    assert "hpo  accuracy" in shown(outcome)
    kernel.ok("won = found.compared is not None and found.compared.difference > 0")
    kernel.ok("kept = found.compared.config if won else found.defaults.config")
    kernel.ok("params = next(row.params for row in found.rows.values() if row.config == kept)")
    assert kernel.value("lr == params['lr'], str(width) == str(params['width'])") == "(True, True)"
    assert kernel.value("(model.in_features, model.out_features) == (width, 3)") == "True"
    assert (
        kernel.value("round(accuracy - (1 - abs(math.log10(lr) + 2) / 5 + 0.01 * width - 0.5 / 6), 9)")
        == "0.0"
    )
    assert kernel.value("len({row['config'] for row in found.to_dict()['trials']})") == "10"
    assert kernel.value("'ds' in globals(), 'epoch' in globals()") == "(False, True)"


def test_a_name_that_is_added_to_in_place_is_one_that_the_cell_needs() -> None:
    seen = cells.names("total += 1")
    assert "total" in seen.loads
    assert "total" in seen.binds


def test_without_the_magic_the_cell_is_ordinary(kernel: Kernel) -> None:
    body = CELL.split("\n", 1)[1]
    kernel.ok(f"import deepseek_lab as ds\n{body}")
    assert kernel.value("round(lr, 6), width") == "(0.001, 4)"
    kernel.ok("del ds")


def test_studies_are_listed_shown_applied_exported_and_gone_on_with(kernel: Kernel, tmp_path: Path) -> None:
    kernel.ok(CELL.format(name="words", flags="--repeats 0"), timeout_s=120)
    assert "words" in shown(kernel.ok("%deepseek hpo list"))
    assert "hpo  accuracy" in shown(kernel.ok("%deepseek hpo show words"))
    kernel.ok("lr = width = None")
    assert "from study words" in shown(kernel.ok("%deepseek hpo apply words"))
    assert kernel.value("isinstance(lr, float), width in (4, 8)") == "(True, True)"
    script = tmp_path / "best.py"
    kernel.ok(f"%deepseek hpo export words --save {script}")
    assert "ds." not in script.read_text().replace("# searched: ds.", "")
    compile(script.read_text(), "best.py", "exec")
    outcome = kernel.ok("%deepseek hpo resume words --trials 12 --repeats 0 --to more", timeout_s=120)
    assert outcome
    assert kernel.value("more.num_configs") == "12"
    wider = CELL.replace("ds.choice(4, 8)", "ds.choice(4, 8, 16)")
    warm = wider.format(name="wider", flags="--repeats 0 --warm-start words")
    assert "the best 2 of study words are tried first" in shown(kernel.ok(warm, timeout_s=120))
    outcome = kernel.run(wider.format(name="words", flags="--repeats 0"))
    assert "--name with another name, and --warm-start words" in outcome.traceback
    outcome = kernel.run(CELL.format(name="none", flags="--warm-start nothing"))
    assert "there is no study 'nothing'" in outcome.traceback
    listed = shown(kernel.ok("%deepseek hpo list"))
    assert "wider" in listed
    assert not [line for line in listed.splitlines() if "no study" in line]
    place = f"sqlite:///{tmp_path}/studies.db"
    kernel.ok(CELL.format(name="stored", flags=f"--repeats 0 --storage {place}"), timeout_s=120)
    listed = shown(kernel.ok(f"%deepseek hpo list --storage {place}"))
    assert "stored" in listed
    assert "wider" not in listed
    assert "hpo  accuracy" in shown(kernel.ok(f"%deepseek hpo show --storage {place}"))
    assert "forgotten" in shown(kernel.ok("%deepseek hpo remove words"))
    assert "no study 'words'" in kernel.run("%deepseek hpo show words").traceback


def test_a_cell_that_fails_with_its_defaults_fails_with_its_own_lines(kernel: Kernel) -> None:
    outcome = kernel.run(
        "%%deepseek hpo --metric accuracy\nx = ds.uniform(0, 1)\naccuracy = nothing_like_this\n"
    )
    assert "NameError" in outcome.traceback
    assert "line 3" in outcome.traceback
    assert "fails with its own defaults" in outcome.traceback


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("%%deepseek hpo\nx = ds.uniform(0, 1)", "hpo needs --metric"),
        ("%%deepseek hpo --metric acuracy\naccuracy = 1.0", "--metric accuracy"),
        ("%%deepseek hpo --metric a --direction up\na = 1.0", "neither max nor min"),
        ("%%deepseek hpo --metric a,b --direction max,min,max\na = b = 1.0", "2 metrics have 3 directions"),
        ("%%deepseek hpo --metric a --trials 0\na = 1.0", "--trials 1"),
        ("%%deepseek hpo --metric a --name ../x\na = 1.0", "is no name of a study"),
        ("%%deepseek hpo --metric a\n%time a = 1.0", "which other processes do not have"),
        ("%deepseek hpo shwo", "%deepseek hpo show"),
    ],
)
def test_what_is_typed_wrongly_is_told(kernel: Kernel, cell: str, told: str) -> None:
    assert told in kernel.run(cell).traceback


def test_an_interrupt_ends_the_search_and_keeps_its_trials(kernel: Kernel) -> None:
    slow = (
        CELL.format(name="slow", flags="")
        .replace("--trials 10", "--trials 500")
        .replace("for epoch in range(6):", "import time\nfor epoch in range(6):\n    time.sleep(0.05)")
    )
    kernel.ok("lr = 'mine'")
    journal = Path(os.environ["DEEPSEEK_LAB_CACHE_DIR"]) / "hpo" / "slow.journal"

    def interrupt() -> None:
        while not journal.exists() or journal.read_text().count("\n") < 12:
            time.sleep(0.1)
        kernel.manager.interrupt_kernel()

    threading.Thread(target=interrupt, daemon=True).start()
    outcome = kernel.ok(slow, timeout_s=90)
    assert kernel.value("lr") == "'mine'"
    assert "interrupted" in shown(outcome)
    assert "lr = " in shown(kernel.ok("%deepseek hpo apply slow"))
