"""What the error that ended a loop says of labels and ids, read off its traceback."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from deepseek_lab.base.inspection import Finding
from deepseek_lab.inspector import labels, losses
from deepseek_lab.inspector.blame import with_output
from deepseek_lab.inspector.seen import ModelSeen
from deepseek_lab.inspector.sites import NOWHERE, as_python
from deepseek_lab.measure.profiler.frames import is_own


def of_error(
    error: BaseException, models: Sequence[ModelSeen], recent: ModelSeen | None
) -> Iterator[Finding]:
    """What the error that ended the loop says of labels and ids: read off its traceback."""
    call = losses.failed_call(error.__traceback__)
    if call is not None:
        finding = labels.check(call, recent.step if recent else 0, recent.name if recent else "")
        if finding is not None:
            yield with_output(finding, recent)
    if isinstance(error, IndexError):
        yield from _index_error(error, models)


def _index_error(error: BaseException, models: Sequence[ModelSeen]) -> Iterator[Finding]:
    trace, found, site = error.__traceback__, None, NOWHERE
    while trace is not None:
        frame = trace.tb_frame
        if is_own(frame.f_code.co_filename):
            site = (frame.f_code.co_filename, trace.tb_lineno)
        inner = frame.f_locals.get("self")
        if isinstance(inner, nn.Embedding) and frame.f_code.co_name == "forward":
            found = (inner, frame.f_locals.get("input"))
            break
        trace = trace.tb_next
    if found is None:
        return
    embedding, ids = found
    if not isinstance(ids, Tensor):
        return
    for model in models:
        seen = model.modules.get(id(embedding))
        if seen is None:
            continue
        yield Finding(
            kind="input",
            module=seen.path,
            since=model.step,
            text=f"{seen.path} is given numbers that it has no row for",
            evidence=f"from {int(ids.min())} to {int(ids.max())}, rows 0 to {embedding.num_embeddings - 1}",
            fix="a larger embedding, or a tokenizer that belongs to the model",
            code=f"print(x.max(), {as_python(seen.path)}.num_embeddings)",
            file=site[0],
            line=site[1],
            model=model.name,
        )
        return
