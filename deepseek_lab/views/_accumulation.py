"""What accumulating gradients has come to, in words."""

from __future__ import annotations

from deepseek_lab.base.events import BatchAccumulated
from deepseek_lab.base.sizes import words
from deepseek_lab.views import _words


def batch_line(batch: BatchAccumulated) -> str:
    """One line: how large an update is, of what it is made, and what that brought."""
    size, own = batch.micro_batch, batch.own_batch
    parts = [f"optimize  an update per {batch.num_samples:,} samples"]
    parts.append(f"in micro-batches of {size:,}" if size < batch.num_samples else "in one batch")
    if own and own != size:
        parts[-1] += f" (the loop's own {own:,})"
    if batch.speedup is not None and batch.speedup_ci95 is not None:
        low, high = batch.speedup_ci95
        parts.append(f"{batch.speedup:.2f}x the samples a second (95% {low:.2f}-{high:.2f})")
    peak = next((one.peak_bytes for one in batch.tried if one.size == size), None)
    if peak:
        parts.append(f"peak {words(peak)}")
    if batch.num_updates:
        made = _words.plural(batch.num_updates, "update")
        parts.append(f"{made} of {_words.plural(batch.num_micro_batches, 'step')}")
    return "  ".join(parts)


def batch_notes(batch: BatchAccumulated) -> list[str]:
    """What else there is to say."""
    said = [f"the loss is a {batch.reduction} over its batch"] if batch.num_updates else []
    return [*said, *([batch.reason] if batch.reason else []), *batch.notes]


def batch_text(batch: BatchAccumulated) -> str:
    """The line, with a line for each note."""
    return "\n".join([batch_line(batch), *(f"  note: {one}" for one in batch_notes(batch))])
