"""Generations by transformers' own loop, whatever it calls the cache: the step is what is made fast."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

import deepseek_lab
from deepseek_lab.base import events as ev
from deepseek_lab.engine.lanes import is_step

NUM_TOKENS = 24


@pytest.fixture(params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    if request.param == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=512, n_embd=256, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2
        )
        return transformers.GPT2LMHeadModel(config).eval()
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=512,
            hidden_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=512,
        )
    ).eval()


def generation(model: nn.Module) -> Callable[[], Tensor]:
    tokens = torch.arange(1, 7)[None]
    options = {"max_new_tokens": NUM_TOKENS, "min_new_tokens": NUM_TOKENS, "do_sample": False}
    return lambda: model.generate(tokens, attention_mask=torch.ones_like(tokens), pad_token_id=0, **options)


def test_first_graph_is_of_the_step(model: nn.Module) -> None:
    """One call in many opens the generation: to capture and to search for that one first would hold the others up."""
    generate = generation(model)
    expected = generate()
    fast = deepseek_lab.optimize(model, backends=("onednn",))
    for _ in range(2):
        assert torch.equal(generate(), expected)
    assert deepseek_lab.wait(240)
    assert torch.equal(generate(), expected)
    captured = [event for event in fast.run.log if isinstance(event, ev.GraphCaptured)]
    assert captured[0].dynamic, "the length of the cache grows from call to call"
    assert len(captured) <= 2, "one graph serves every length"


@pytest.mark.parametrize("name", ["cache", "past_key_values", "memory"])
def test_step_is_known_by_what_it_carries(name: str) -> None:
    assert is_step({"input_ids": torch.ones(1, 1), name: DynamicCache()})


@pytest.mark.parametrize("value", [None, True, torch.ones(2), {}])
def test_cache_of_another_kind_makes_no_step(value: object) -> None:
    assert not is_step({"cache": value})
    assert not is_step({})
