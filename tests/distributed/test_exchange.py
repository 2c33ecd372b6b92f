from __future__ import annotations

import torch

from deepseek_lab.distributed.worker.exchange import Int8


def test_what_a_step_leaves_out_is_sent_the_next_times() -> None:
    """One large value makes a group's codes too coarse for the others, which come through over many steps."""
    way, rows = Int8(), torch.rand(2, 512) * 0.1
    rows[:, 0] = 100.0
    once = way.decode(way.encode((0, 0, 0), rows), 512)
    assert not once[:, 1:256].any()
    total = once.clone()
    for _ in range(999):
        total += way.decode(way.encode((0, 0, 0), rows), 512)
    torch.testing.assert_close(total / 1000, rows, rtol=0, atol=1e-3)


def test_tensors_do_not_take_each_others_errors() -> None:
    way, rows = Int8(), torch.full((1, 256), 0.3)
    rows[0, 0] = 100.0
    first = way.encode((0, 0, 0), rows)
    assert torch.equal(way.encode((0, 1, 0), rows), first)
    assert not torch.equal(way.encode((0, 0, 0), rows), first)
