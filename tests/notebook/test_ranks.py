from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from kernel import Kernel
from page import Page, meta

from deepseek_lab.views import live

MIME = "application/vnd.deepseek-lab.v1+json"
DEFINE = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(8, 16); self.g = nn.Linear(16, 2)
    def forward(self, x): return self.g(act(self.f(x)))
act = lambda x: torch.relu(x) * SCALE
SCALE = 1.0
torch.manual_seed(0)
model = Net(); opt = torch.optim.AdamW(model.parameters(), lr=1e-2)
data = torch.utils.data.TensorDataset(torch.randn(120, 8), torch.randint(2, (120,)))
loader = torch.utils.data.DataLoader(data, batch_size=10, shuffle=True)
losses = []
weight, start = model.f.weight, model.f.weight.detach().clone()
"""
TRAIN = """for x, y in loader:
    loss = nn.functional.cross_entropy(model(x), y)
    opt.zero_grad(); loss.backward(); opt.step()
    losses.append(loss.item())
print("epoch", len(losses))
"""
STEP = "opt.zero_grad(); nn.functional.cross_entropy(model(x), y).backward(); opt.step()"
SLOW = f"""for _ in range(40):
    x, y = next(iter(loader))
    {STEP}
    time.sleep(0.12 * torch.distributed.get_rank())
"""


@pytest.fixture(scope="module")
def ranks() -> Iterator[Kernel]:
    """A kernel with two ranks."""
    kernel = Kernel()
    kernel.ok(f"%load_ext deepseek_lab\n{DEFINE}")
    kernel.ok("%deepseek ranks start -n 2", timeout_s=120)
    yield kernel
    kernel.stop()


def last(outcome: object) -> dict[str, str]:
    """The last form of what a cell showed, beside the run of a training."""
    updates, displays = (
        [one for one in shown if MIME not in one]
        for shown in (outcome.updates, outcome.displays)  # type: ignore[attr-defined]
    )
    return dict((updates or displays)[-1])


class TestCells:
    def test_magics_of_ipython_work_on_ranks(self, ranks: Kernel) -> None:
        said = last(ranks.ok("%%deepseek ranks\n%time times = 3 + rank\ntimes"))["text/plain"]
        assert said.startswith(("[0] CPU times: ", "[0-1] CPU times: "))  # both may have taken as long
        assert said.splitlines()[-2:] == ["[0] 3", "[1] 4"]
        said = last(ranks.ok("%%deepseek ranks\nlines = !echo rank $(($RANK + 5))\nlines[0]"))["text/plain"]
        assert said.splitlines() == ["[0] 'rank 5'", "[1] 'rank 6'"]
        ranks.ok("%%deepseek ranks\n%%time\ndef told():\n    return times * 2")
        assert last(ranks.ok("%%deepseek ranks\ntold()"))["text/plain"].splitlines() == ["[0] 6", "[1] 8"]

    def test_a_magic_that_fails_or_is_ours_is_told(self, ranks: Kernel) -> None:
        assert "ZeroDivisionError on ranks 0-1" in ranks.run("%%deepseek ranks\n%time 1 / 0").traceback
        assert "`%nosuch` not found" in ranks.run("%%deepseek ranks\n%nosuch").traceback
        for ours in ("%deepseek status", "%load_ext deepseek_lab", "%ds_profile f()"):
            outcome = ranks.run(f"%%deepseek ranks\nx = 1\n{ours}")
            assert outcome.ename == "TargetError"
            assert "line 3 is a magic" in outcome.evalue
        ranks.ok("%%deepseek ranks\n'x' in globals()")

    def test_ranks_that_say_the_same_stand_together(self, ranks: Kernel) -> None:
        outcome = ranks.ok("%%deepseek ranks\nprint('same')\nif rank: print('more')\nrank * 10")
        shown = last(outcome)
        assert shown["text/plain"].splitlines() == ["[0] same", "[1] same", "[1] more", "[0] 0", "[1] 10"]
        assert "<details open><summary>rank 0 (1 line)</summary>" in shown["text/html"]
        assert outcome.result is None
        shown = last(ranks.ok("%%deepseek ranks\nprint('<b>hi')\nworld_size"))
        assert shown["text/plain"].splitlines() == [
            "[0-1] &lt;b&gt;hi".replace("&lt;b&gt;", "<b>"),
            "[0-1] 2",
        ]
        assert "&lt;b&gt;hi" in shown["text/html"]
        assert "<b>hi" not in shown["text/html"]

    def test_names_go_and_come(self, ranks: Kernel) -> None:
        ranks.ok("factor = 3\ndef f(x): return x * factor")
        ranks.ok("%%deepseek ranks --push f --gather out,rank -q\nout = f(rank + 1)")
        assert ranks.value("out, rank") == "([3, 6], [0, 1])"

    def test_output_comes_while_the_cell_runs(self, ranks: Kernel) -> None:
        outcome = ranks.ok(
            "%%deepseek ranks [0]\nimport time\nfor i in range(5):\n    print('step', i)\n    time.sleep(0.3)"
        )
        assert len(outcome.updates) >= 2
        assert "step 4" not in outcome.displays[0]["text/plain"]
        assert "step 4" in last(outcome)["text/plain"]

    def test_an_error_names_ranks_and_lines_of_the_cell(self, ranks: Kernel) -> None:
        outcome = ranks.run(
            "# a comment\n%%deepseek ranks\nimport torch.distributed as dist\nif rank == 1:\n    [][3]\ndist.barrier()"
        )
        assert (outcome.status, outcome.ename) == ("error", "RanksFailed")
        assert "IndexError on rank 1\nTraceback (most recent call last):\n  Cell In[" in outcome.traceback
        assert "line 5, in <module>\n    [][3]" in outcome.traceback
        assert "rank 0 waited for rank 1 at line 6" in outcome.traceback
        assert "deepseek_lab/" not in outcome.traceback

    @pytest.mark.parametrize(
        ("cell", "message"),
        [
            ("%%deepseek ranks\nimport asyncio\nawait asyncio.sleep(0)", "line 3 awaits at the top level"),
            ("%%deepseek ranks [7]\n1", "there is no rank 7, the ranks are 0-1"),
            ("%%deepseek ranks all\n1", "'all' names no ranks"),
            ("%%deepseek ranks --push nothing\n1", "there is no 'nothing' in the notebook"),
            ("%deepseek ranks start -n 4", "2 ranks run already"),
            ("%deepseek ranks strat", "%deepseek ranks start"),
            ("%%deepseek distributed -n 5\n1", "2 ranks run already"),
            ("%%deepseek distributed --exchange int8\n1", "--exchange int8 --allow-lossy"),
            ("%%deepseek distributed --rank 8\n1", "--exchange powersgd --rank 8 --allow-lossy"),
            (
                "%%deepseek distributed --exchange bf16 --allow-lossy --every 4\n1",
                "--exchange local --every 4",
            ),
            ("%%deepseek distributed --checkpoint 0 --checkpoint-to kept\n1", "saves nothing"),
            (
                "%%deepseek distributed --strategy fsdp --allow-lossy\n1",
                "--allow-lossy is for ranks that hold all",
            ),
            (
                "%%deepseek distributed --strategy fsdp --exchange int8 --allow-lossy\n1",
                "%%deepseek distributed --strategy fsdp, or %%deepseek distributed --exchange int8",
            ),
            (
                "%%deepseek distributed --strategy tensor --allow-lossy\n1",
                "with --strategy tensor gradients go exactly",
            ),
            (
                "%%deepseek distributed --mesh data=2,tensor=2\n1",
                "--mesh data=2,tensor=2 is for 4 ranks, and 2 run",
            ),
            ("%%deepseek distributed --micro-batches 4\n1", "--strategy pipeline --micro-batches 4"),
            ("%deepseek ranks resize", "resize needs a number, and none was given"),
            ("%deepseek ranks resize all", "'all' is none"),
            ("%deepseek ranks resize 0", "there cannot be 0 ranks"),
            ("%%deepseek distributed -n 5\n1", "%deepseek ranks resize 5"),
            ("%%deepseek distributed --checkpoint 0 --on-loss shrink\n1", "--checkpoint 0 saves nothing"),
            (
                "%%deepseek distributed --on-loss shrink --max-restarts 2\n1",
                "says nothing about --on-loss shrink",
            ),
            ("%%deepseek distributed --min-ranks 3\n1", "--min-ranks 3 is not one of 1 to 2"),
            ("%%deepseek distributed --exchange hierarchical\n1", "all ranks are on one host"),
            ("%%deepseek distributed --exchange hierarchical-int8\n1", "hierarchical-int8 --allow-lossy"),
            ("%deepseek ranks record 3", "does not know what to do with '3'"),
            ("%deepseek on ranks", "%%deepseek ranks"),
        ],
    )
    def test_what_cannot_be_is_said(self, ranks: Kernel, cell: str, message: str) -> None:
        outcome = ranks.run(cell)
        assert outcome.status == "error"
        assert message in outcome.traceback
        assert "File " not in outcome.traceback

    def test_a_syntax_error_is_one_of_the_cell(self, ranks: Kernel) -> None:
        outcome = ranks.run("%%deepseek ranks\nx = = 1")
        assert outcome.ename == "SyntaxError"

    def test_help_and_dry_run_do_nothing(self, ranks: Kernel) -> None:
        assert "--gather" in str(ranks.ok("%%deepseek ranks --help\nundefined").result)
        assert "dry run" in str(ranks.ok("%%deepseek distributed --dry-run\nundefined").result)

    def test_status_says_who_does_what(self, ranks: Kernel) -> None:
        text = str(ranks.ok("%deepseek ranks status").result)
        assert text.splitlines()[2].split()[:2] == ["0", "ready"]

    def test_an_interrupt_ends_the_cell(self, ranks: Kernel) -> None:
        def interrupt() -> None:
            time.sleep(0.5)
            ranks.manager.interrupt_kernel()

        outcome = ranks.run(
            "print('go', flush=True)\nget_ipython().run_cell_magic('deepseek', 'ranks', "
            "'import torch.distributed as dist\\nif rank: dist.barrier()\\nelse:\\n    while True: pass')",
            during=interrupt,
        )
        assert outcome.ename == "KeyboardInterrupt"
        assert "[0-1] 2" in last(ranks.ok("%%deepseek ranks\nworld_size"))["text/plain"]


class TestTraining:
    def test_a_training_cell_trains_the_notebooks_own_model(self, ranks: Kernel, tmp_path: Path) -> None:
        saved = tmp_path / "trained.json"
        outcome = ranks.ok(f"%%deepseek distributed --to t --save {saved}\n{TRAIN}")
        assert outcome.stdout == "epoch 6\n"
        head, *rest = last(outcome)["text/plain"].splitlines()
        assert head.startswith("distributed  2 ranks  6 updates  batch 20  ")
        assert "losses" in head
        assert rest == ["[1] epoch 6"]
        assert (
            ranks.value("len(losses), weight is model.f.weight, bool((start != weight).any())")
            == "(6, True, True)"
        )
        assert ranks.value("opt.state[weight]['step'].item()") == "6.0"
        record = json.loads(saved.read_text())
        assert [one["status"] for one in record["ranks"]] == ["ok", "ok"]
        assert record["ranks"][0]["checksum"] == record["ranks"][1]["checksum"]

    def test_figures_and_operations_of_a_training_are_there_after_it(
        self, ranks: Kernel, tmp_path: Path
    ) -> None:
        longer = TRAIN.replace("loss.item())", "loss.item()); __import__('time').sleep(0.1)")
        ranks.ok(f"%%deepseek distributed\n{longer}")
        _, names, first, _ = str(ranks.ok("%deepseek ranks status").result).splitlines()[:4]
        for name in ("updates/s", "samples/s", "loss", "memory"):
            start = names.index(name)
            assert first[start : start + 4].strip(), name
        text = str(ranks.ok(f"%deepseek ranks record --save {tmp_path / 'record.json'}").result)
        assert text.startswith("ranks  their last operations\n")
        assert " all_reduce of [178] float32 " in text
        record = json.loads((tmp_path / "record.json").read_text())
        assert record["found"] == []
        for rank in ("0", "1"):
            found = [one for one in record["ranks"][rank]["operations"] if one["shapes"] == [[178]]]
            told = [(one["name"], one["line"], one["num_bytes"], one["state"]) for one in found[-6:]]
            assert told == [("all_reduce", 4, 712, "ended")] * 6, "the line of the notebook's cell"
            assert record["ranks"][rank]["groups"]["0"] == [0, 1]

    @pytest.mark.parametrize(
        ("flags", "told"),
        [
            ("--strategy tensor", "split in 1 group: f by columns, then g by rows"),
            (
                "--mesh pipeline=2 --micro-batches 5",
                "rank 1 (pipeline 1): g; parameters 136 B, optimizer states 272 B",
            ),
        ],
    )
    def test_a_model_on_a_mesh_is_the_notebooks_own_again(self, ranks: Kernel, flags: str, told: str) -> None:
        ranks.ok("steps = opt.state[weight]['step'].item() if opt.state else 0")
        outcome = ranks.ok(f"%%deepseek distributed {flags}\n{TRAIN}")
        assert told in outcome.stdout
        head, note, *_ = last(outcome)["text/plain"].splitlines()
        assert head.startswith("distributed  2 ranks  12 updates  batch 10  ")
        assert note.startswith("each rank held at most ")
        kinds = "type(model) is Net, type(weight) is nn.Parameter, weight is model.f.weight, type(loss) is torch.Tensor"
        assert ranks.value(kinds) == "(True, True, True, True)"
        assert ranks.value("opt.state[weight]['step'].item() - steps") == "12.0"

    def test_a_model_that_was_sharded_is_the_notebooks_own_again(self, ranks: Kernel) -> None:
        ranks.ok("steps = opt.state[weight]['step'].item()")
        outcome = ranks.ok(f"%%deepseek distributed --strategy fsdp\n{TRAIN}")
        head, note, *_ = last(outcome)["text/plain"].splitlines()
        assert head.startswith("distributed  2 ranks  6 updates  batch 20  ")
        assert note.startswith("each rank held at most ")
        assert note.endswith(" MB")
        kinds = "type(model) is Net, type(weight) is nn.Parameter, weight is model.f.weight"
        assert ranks.value(kinds) == "(True, True, True)"
        assert ranks.value("opt.state[weight]['step'].item() - steps") == "6.0"
        ranks.ok(TRAIN)

    def test_how_ranks_are_doing_is_followed_while_the_cell_is_busy_and_kept(self, ranks: Kernel) -> None:
        page = Page(ranks)
        cell = ranks.client.execute(f"%%deepseek distributed --to t\nimport time\n{SLOW}")
        page.listen(lambda: page.displays)
        page.send("comm_open", comm_id="ranks", target_name=live.TARGET, data={"run": page.run_of()})

        def seen() -> list[dict[str, Any]]:
            events = [event for data in page.of("ranks") for event in meta(data)["events"]]
            return [event for event in events if event["kind"] == "ranks_seen"]

        page.listen(lambda: any(one["late_s"] for event in seen() for one in event["ranks"]))
        assert cell not in page.idle
        assert {one["state"] for one in seen()[-1]["ranks"]} == {"training"}
        late = next(event["ranks"] for event in seen() if any(one["late_s"] for one in event["ranks"]))
        assert [one["late_s"] is not None for one in late] == [False, True]
        page.listen(lambda: page.closed("ranks") and cell in page.idle)
        assert meta(page.of("ranks")[-1])["state"] == "ended"
        kept = [one for one in page.displays if MIME in one][-1]
        assert "live" not in kept[MIME]
        assert "the others wait for rank 1" in kept["text/plain"].splitlines()[0]
        assert [line.split()[:3] for line in kept["text/plain"].splitlines()[2:]] == [
            ["0", "ended", "40"],
            ["1", "ended", "40"],
        ]
        still = kept["text/html"][: kept["text/html"].index("<iframe")]
        assert "the others wait for it" in still
        assert "<script" not in still
        assert "the others waited for rank 1" in page.displays[-1]["text/plain"]
        assert ranks.value("[one['num_updates'] for one in t.to_dict()['vitals']]") == "[40, 40]"

    @pytest.mark.parametrize(
        ("flag", "kinds"), [("static", {"text/plain", "text/html"}), ("text", {"text/plain"})]
    )
    def test_nothing_is_live_where_it_is_not_to_be(self, ranks: Kernel, flag: str, kinds: set[str]) -> None:
        outcome = ranks.ok(f"%%deepseek distributed --view {flag}\n{TRAIN}")
        shown = [*outcome.displays, *outcome.updates]
        assert set().union(*shown) == kinds
        assert any("rank  state  updates" in one["text/plain"] for one in shown)

    def test_stop_is_an_interrupt(self, ranks: Kernel) -> None:
        page = Page(ranks)
        before = ranks.value("model.f.weight.sum().item()")
        cell = ranks.client.execute(
            f"%%deepseek distributed\nwhile True:\n    for x, y in loader:\n        {STEP}"
        )
        page.listen(lambda: page.displays)
        page.send("comm_open", comm_id="stop", target_name=live.TARGET, data={"run": page.run_of()})
        page.listen(lambda: any(meta(data).get("done") for data in page.of("stop")))
        page.send("comm_msg", comm_id="stop", data={"do": "stop"})
        page.listen(lambda: cell in page.idle)
        events = {event["kind"]: event for data in page.of("stop") for event in meta(data)["events"]}
        assert events["run_ended"]["reason"].startswith("KeyboardInterrupt after")
        assert ranks.value("model.f.weight.sum().item()") == before

    def test_a_rank_that_is_lost_is_told_and_the_set_grows_again(self, ranks: Kernel) -> None:
        ranks.ok("%%deepseek ranks\nmark = rank")
        die = "if epoch == 15 and torch.distributed.get_rank() == 0: os.kill(os.getpid(), 9)"
        outcome = ranks.ok(
            "%%deepseek distributed --on-loss shrink --checkpoint 0.2 --effective-batch 20 --to t\n"
            f"import os, time\nfor epoch in range(20):\n    for x, y in loader:\n        {STEP}\n"
            f"    time.sleep(0.05)\n    if torch.distributed.get_world_size() == 2:\n        {die}"
        )
        head, told, batch, *_ = last(outcome)["text/plain"].splitlines()
        assert head.startswith("distributed  1 of 2 ranks  120 updates  batch 20  ")
        assert "rank 0 was ended by SIGKILL" in told
        assert "; it was not replaced (--on-loss shrink), and 1 of 2 ranks " in told
        assert batch == "an update had 20 samples throughout (--effective-batch)"
        kept = [one for one in [*outcome.displays, *outcome.updates] if MIME in one][-1]
        assert [line.split()[:3] for line in kept["text/plain"].splitlines()[2:]] == [["0", "ended", "120"]]
        *_, lost, went_on = str(ranks.ok("%deepseek ranks status").result).splitlines()
        assert "rank 0 was ended by SIGKILL" in lost
        assert went_on.endswith(told.partition(" ")[2].partition(" ")[2])
        text = str(ranks.ok("%deepseek ranks resize 2").result)
        assert text.startswith("ranks  1 became 2; 1 started, with no names yet\n")
        shown = last(ranks.ok("%%deepseek ranks\nglobals().get('mark'), world_size"))["text/plain"]
        assert shown.splitlines() == ["[0] (1, 2)", "[1] (None, 2)"]

    def test_an_error_in_it_leaves_everything_as_it_was(self, ranks: Kernel) -> None:
        before = ranks.value("len(losses), model.f.weight.sum().item()")
        outcome = ranks.run(f"%%deepseek distributed\n{TRAIN}raise ValueError('late')")
        assert "ValueError on ranks 0-1" in outcome.traceback
        assert ranks.value("len(losses), model.f.weight.sum().item()") == before

    def test_something_that_cannot_travel_is_named(self, ranks: Kernel) -> None:
        ranks.ok("import threading\nlock = threading.Lock()")
        outcome = ranks.run(f"%%ds_distributed\nlock\n{TRAIN}")
        assert "lock, which the cell uses, is a lock that cannot be sent" in outcome.traceback


def test_ranks_start_for_a_cell_that_needs_them_and_end_with_the_kernel() -> None:
    kernel = Kernel()
    try:
        kernel.ok(f"%load_ext deepseek_lab\n{DEFINE}")
        assert "no ranks have been started" in kernel.run("%%deepseek ranks\n1").traceback
        outcome = kernel.ok(f"%%deepseek distributed -n 2 --effective-batch 40\n{TRAIN}", timeout_s=120)
        assert "batch 40" in last(outcome)["text/plain"]
        pids = [int(row.split()[2]) for row in str(kernel.ok("%deepseek ranks").result).splitlines()[2:]]
        assert len(pids) == 2
        assert all(psutil.pid_exists(pid) for pid in pids)
        assert "2 stopped" in str(kernel.ok("%deepseek ranks stop").result)
        assert not any(psutil.pid_exists(pid) for pid in pids)
        kernel.ok("%deepseek ranks start -n 2 --to r", timeout_s=120)
        pids = [
            int(pid) for pid in json.loads(kernel.value("[one['process'] for one in r.to_dict()['rows']]"))
        ]
    finally:
        kernel.stop()
    until = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(psutil.pid_exists(pid) for pid in pids)
