"""Line magics: one object that shows itself, or an error in a few words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kernel import Kernel


@pytest.fixture(scope="module")
def decided(recording: Kernel) -> Kernel:
    """The recording kernel after one decided run, bound to ``r``."""
    recording.ok("scale = 2")
    recording.ok("unrelated = 3")
    recording.ok("%load_ext deepseek_lab\nthing = Net()")
    recording.ok(
        "%%deepseek optimize --view text -q --to r\nthing(scale)\napi.recorded[-1].capture()\napi.recorded[-1].decide()"
    )
    return recording


def test_why_tells_every_candidate(decided: Kernel) -> None:
    for line in ("%deepseek why", "%ds_why r"):
        text = decided.ok(line).result or ""
        assert "runs in onnxruntime" in text
        assert "2 operations" in text
        for word in ("won", "lost", "refused", "differs at output 0 (max rel 0.2)", "2.00x (1.90-2.10)"):
            assert word in text


def test_why_tells_breaks_and_fallbacks(decided: Kernel) -> None:
    decided.ok(
        "from deepseek_lab.base import events as ev\nlog = api.recorded[-1].log\n"
        "log.emit(ev.GraphBreak(run='x', target='model', reason='print <b>', file='cell', line=4))\n"
        "for _ in range(3): log.emit(ev.FellBack(run='x', target='model', reason='new shape'))"
    )
    decided.ok("why = %deepseek why")
    text = decided.value("repr(why)")
    assert "cell:4" in text
    assert "new shape  3" in text
    html = decided.value("why._repr_mimebundle_()['text/html']")
    assert "print &lt;b&gt;" in html
    assert "<b>" not in html


def test_graph_is_grouped_by_module_with_lines(decided: Kernel) -> None:
    text = decided.ok("%deepseek graph --view text").result or ""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0].startswith("model(float32[2, 4]) 2 operations, 1 parameters, runs in onnxruntime")
    assert any(line.startswith("linear") and "2x4" in line and line.endswith("3") for line in lines), text
    assert any("relu" in line and line.endswith("4") for line in lines), text
    assert "layers.0" in text


def test_graph_has_a_static_picture(decided: Kernel) -> None:
    decided.ok("picture = %deepseek graph")
    page = decided.value("picture._repr_mimebundle_()['text/html']")
    assert "data:image/svg+xml;base64," in page
    assert "<script" not in page
    assert len(page) < 200_000


def test_graph_with_its_costs(decided: Kernel) -> None:
    text = (
        decided.ok("%deepseek graph --profile --gradients --seconds 2 --seed 3 --view text --to costs").result
        or ""
    )
    assert decided.value("api.asked_profile") == repr(
        (decided.value("api.recorded[-1].id")[1:-1], True, 2.0, 3)
    )
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0].startswith("model(float32[2, 4]) 2 operations")
    assert "on the inputs of the call" in lines
    assert "by kind: linear 75.0% (1), relu 25.0% (1)" in lines
    assert any(line.startswith("linear linear layers.0") and line.endswith("line 3") for line in lines), text
    assert decided.value("costs.to_dict()['profiles'][0]['accounted']") == str(4e-3 / 4.2e-3)
    decided.ok("picture = %deepseek graph --profile")
    assert decided.value("api.asked_profile[1:]") == "(False, 5.0, None)"
    page = decided.value("picture._repr_mimebundle_()['text/html']")
    assert "by kind: linear" in page
    assert len(page) < 200_000


def test_flags_that_need_another_one_say_so(decided: Kernel) -> None:
    for flag in ("--gradients", "--seconds 3"):
        outcome = decided.run(f"%deepseek graph {flag}")
        assert outcome.ename == "UsageError"
        assert f"try: %deepseek graph --profile {flag}" in outcome.evalue
    outcome = decided.run("%deepseek graph --profile --seconds 0")
    assert (outcome.ename, "--seconds 5" in outcome.evalue) == ("UsageError", True)


def test_verify(decided: Kernel) -> None:
    text = decided.ok("%deepseek verify --inputs 5").result or ""
    assert text.startswith("verify  all 1 agree with eager on 5 fresh inputs each")
    assert decided.run("%deepseek verify --inputs 0").ename == "UsageError"


def test_free_doctor_status(decided: Kernel) -> None:
    assert (decided.ok("%deepseek free").result or "").startswith("free  1.0 MiB")
    doctor = decided.ok("%deepseek doctor").result or ""
    assert doctor.startswith("doctor  1 of 3 checks failed")
    assert "make kernels" in doctor
    status = decided.ok("%ds_status").result or ""
    assert "model#1 onnxruntime" in status
    assert "every cell is a region  no" in status


def test_config(decided: Kernel) -> None:
    assert "race_budget_s" in (decided.ok("%deepseek config").result or "")
    assert "5" in (decided.ok("%deepseek config race_budget_s 5").result or "")
    outcome = decided.run("%deepseek config race_budget 5")
    assert (outcome.ename, "race_budget_s" in outcome.evalue) == ("UsageError", True)
    assert decided.run("%deepseek config nothing_like_it").ename == "UsageError"
    decided.ok("%deepseek config race_budget_s 20")


def test_optimize_on_a_line(decided: Kernel) -> None:
    decided.ok("handle = %deepseek optimize model --view text")
    assert decided.value("list(api.recorded[-1].asked['targets'])") == "['model']"
    assert decided.run("%deepseek optimize").ename == "UsageError"
    assert decided.run("%deepseek optimize scale").ename == "TargetError"
    decided.ok("api.recorded.pop()")


def test_to_save_quiet_and_semicolon(decided: Kernel, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "why.json"
    assert decided.ok(f"%deepseek why -q --to w --save {file}").result is None
    assert json.loads(file.read_text())["chosen"] == "onnxruntime"
    assert decided.value("w.to_dict()['chosen']") == "'onnxruntime'"
    assert decided.ok("%deepseek status;").result is None
    for ending in (".html", ".md"):
        decided.ok(f"%deepseek graph -q --view text --save {tmp_path / 'graph'}{ending}")
        assert "layers.0" in (tmp_path / f"graph{ending}").read_text()


def test_help_of_the_shell(decided: Kernel) -> None:
    message = decided.client.execute("%deepseek?")
    while True:
        reply = decided.client.get_shell_msg(timeout=20)
        if reply["parent_header"].get("msg_id") == message:
            break
    text = reply["content"]["payload"][0]["data"]["text/plain"]
    assert "optimize" in text
    assert "--help shows the flags of one verb" in text


def test_nothing_optimised_yet(loaded: Kernel) -> None:
    for verb in ("why", "graph", "verify", "export out/"):
        outcome = loaded.run(f"%deepseek {verb}")
        assert outcome.ename == "TargetError", verb
        assert "try: %%deepseek optimize" in outcome.evalue
    assert "not in use yet" in (loaded.ok("%deepseek status").result or "")
    assert "nothing was held" in (loaded.ok("%deepseek free").result or "")


def test_export_takes_the_cells_that_the_result_needs(decided: Kernel, tmp_path: Path) -> None:
    decided.ok(
        "import sys, types, dataclasses, pathlib\nwritten = []\n@dataclasses.dataclass\nclass ExportRecord:\n"
        "    files: list\nfake = types.ModuleType('deepseek_lab.export')\n"
        "def write(run, directory, *, source_cells, as_):\n    written.append((run.id, source_cells, as_))\n"
        "    return ExportRecord(['model.py'])\nfake.write = write\nimport deepseek_lab\n"
        "real = sys.modules.get('deepseek_lab.export')\nsys.modules['deepseek_lab.export'] = deepseek_lab.export = fake"
    )
    assert "model.py" in (decided.ok(f"%deepseek export {tmp_path}/out r").result or "")
    taken = decided.value("'\\n'.join(source for _, source in written[-1][1])")
    assert "scale = 2" in taken
    assert "thing = Net()" in taken
    assert "class Net" in taken
    assert "unrelated" not in taken
    assert "# %load_ext deepseek_lab" in taken
    assert "# %%deepseek optimize" in taken
    decided.ok(f"%deepseek export {tmp_path}/out --cells 1-2 --as script")
    assert (
        decided.value("[name for name, _ in written[-1][1]], written[-1][2]")
        == "(['cell_1', 'cell_2'], 'script')"
    )
    assert decided.run(f"%deepseek export {tmp_path}/out --cells 9999").ename == "UsageError"
