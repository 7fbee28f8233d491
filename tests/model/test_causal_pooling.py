"""Pooling heads of a causal model pool the last valid token, which has seen the whole document."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import longformer_plus
from longformer_plus import LongformerPlusConfig, LongformerPlusForCausalLM

from ..cases import BACKENDS, small_config, spread

IDS = torch.arange(3, 43).view(2, 20)
LENGTHS = torch.tensor([[20], [13]])
MASKS = {
    "none": None,
    "right": (torch.arange(20) < LENGTHS).long(),
    "left": (torch.arange(20) >= 20 - LENGTHS).long(),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal language model's, as the causal recipe writes it."""
    folder = tmp_path_factory.mktemp("causal")
    torch.manual_seed(0)
    fields = small_config().to_dict()
    del fields["model_type"]
    spread(LongformerPlusForCausalLM(LongformerPlusConfig(**fields))).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("padding", MASKS)
@pytest.mark.parametrize("head", ["ForSequenceClassification", "Model", "ForMultipleChoice"])
def test_each_valid_token_matters_and_padding_does_not(head: str, padding: str, backend: str, checkpoint: Path) -> None:
    torch.manual_seed(0)
    kind = getattr(longformer_plus, f"LongformerPlus{head}")
    model = spread(kind.from_pretrained(checkpoint, attn_implementation=backend)).eval()
    assert model.config.is_causal
    mask = MASKS[padding]

    @torch.no_grad()
    def pooled(ids: torch.Tensor) -> torch.Tensor:
        inputs = {"input_ids": ids} if mask is None else {"input_ids": ids, "attention_mask": mask}
        if head == "ForMultipleChoice":
            # Each row's own two choices: of one alone nothing could be told.
            inputs = {name: torch.stack([rows, rows.flip(0)], dim=1) for name, rows in inputs.items()}
        outputs = model(**inputs)
        return outputs.pooler_output if head == "Model" else outputs.logits

    before = pooled(IDS)
    valid = torch.ones_like(IDS) if mask is None else mask
    for row in range(2):
        places = valid[row].nonzero().flatten()
        for place in (places[-1], places[-4]):
            changed = IDS.clone()
            changed[row, place] = 50
            assert not torch.allclose(pooled(changed)[row], before[row], atol=1e-5), (row, int(place))
        if len(places) < 20 and head != "ForMultipleChoice":
            changed = torch.where(valid.bool(), IDS, 50)
            torch.testing.assert_close(pooled(changed), before, atol=1e-5, rtol=0)
