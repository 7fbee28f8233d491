"""A masked model whose heads start by attending to the neighbours of each token."""

from __future__ import annotations

import pytest
import torch

from longformer_plus import LongformerPlusConfig, LongformerPlusForMaskedLM
from longformer_plus.integrations.recipes.neighbours_first import attend_to_neighbours


@pytest.mark.parametrize(("hidden_size", "heads"), [(256, 4), (96, 3), (66, 2)])
def test_heads_start_by_attending_to_neighbours(hidden_size: int, heads: int) -> None:
    torch.manual_seed(0)
    config = LongformerPlusConfig(
        vocab_size=500,
        hidden_size=hidden_size,
        num_hidden_layers=2,
        num_attention_heads=heads,
        intermediate_size=64,
        max_position_embeddings=302,
        attention_window=64,
    )
    model = LongformerPlusForMaskedLM(config)
    untouched = {name: weight.clone() for name, weight in model.state_dict().items()}
    attend_to_neighbours(model)
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, untouched[name])}
    assert all("position_embeddings" in name or "layer.0.attention.self." in name for name in changed)
    ids = torch.randint(5, 500, (2, 300))
    with torch.no_grad():
        weights = model.eval()(ids, output_attentions=True).attentions[0]
    for head, distance in zip(range(heads), (-1, 1, -2, 2), strict=False):
        inside = weights[:, head, 5:-5]
        # Columns of the window, after those of global tokens, of which there are none.
        assert (inside.argmax(-1) == 32 + distance).float().mean() > 0.9
        assert inside[..., 32 + distance].mean() > 0.5
