"""What only a GPU does: each backend there, in each dtype, against the oracle, with every gradient."""

from __future__ import annotations

import pytest
import torch

from longformer_plus import LongformerPlusConfig, LongformerPlusModel
from longformer_plus.attention import AttentionPattern
from longformer_plus.layers import LongformerPlusSelfAttention

from .cases import small_config, spread
from .oracle import self_attention

pytestmark = pytest.mark.gpu

HEADS, WIDTH = 3, 96
BACKENDS = ("eager", "sdpa", "flex_attention")


@pytest.mark.parametrize("dilation", [1, 2, [1, 4, 1]], ids=str)
@pytest.mark.parametrize("is_causal", [False, True], ids=["both ways", "causal"])
@pytest.mark.parametrize(("tokens", "window"), [(40, 64), (129, 64), (700, 128), (1000, 512)])
@pytest.mark.parametrize("num_global", [0, 3, 40])
def test_outputs_and_every_gradient_match_the_oracle(
    tokens: int, window: int, num_global: int, is_causal: bool, dilation: int | list[int]
) -> None:
    valid = torch.ones(2, tokens, dtype=torch.bool)
    valid[1, tokens - tokens // 4 :] = False
    generator = torch.Generator().manual_seed(tokens)
    is_global = torch.zeros_like(valid)
    is_global[:, torch.randperm(tokens, generator=generator)[:num_global]] = True
    hidden = torch.randn(2, tokens, WIDTH, generator=generator)
    grad = torch.randn(2, tokens, WIDTH, generator=generator, dtype=torch.float64)
    errors: dict[tuple[str, torch.dtype], dict[str, float]] = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for backend in BACKENDS:
            config = LongformerPlusConfig(
                hidden_size=WIDTH,
                num_attention_heads=HEADS,
                num_hidden_layers=1,
                intermediate_size=8,
                attention_window=window,
                attention_dilation=[dilation],
                is_causal=is_causal,
                attention_probs_dropout_prob=0.0,
                attn_implementation=backend,
            )
            layer = spread(LongformerPlusSelfAttention(config, 0), scale=0.1).to("cuda", dtype)
            rows = hidden.to("cuda", dtype).requires_grad_()
            pattern = AttentionPattern.build(valid.cuda(), is_global.cuda(), rows, keep_empty=True, is_causal=is_causal)
            context = layer(rows, pattern)[0]
            context.backward(grad.to("cuda", dtype))

            exact = hidden.to(dtype).double().requires_grad_()
            weights = {name: p.detach().cpu().double().requires_grad_() for name, p in layer.named_parameters()}
            expected = self_attention(
                exact, weights, HEADS, valid, is_global, window, dilation=dilation, causal=is_causal
            ).context
            expected.backward(grad)
            pairs = {"context": (context.detach(), expected.detach()), "hidden": (rows.grad, exact.grad)}
            for name, parameter in layer.named_parameters():
                pairs[name] = (parameter.grad, weights[name].grad if weights[name].grad is not None else 0)
            errors[backend, dtype] = {
                name: (ours.cpu().double() - theirs).square().mean().sqrt().item()
                / max(float(torch.as_tensor(theirs).double().square().mean().sqrt()), 1.0)
                for name, (ours, theirs) in pairs.items()
            }
            assert all(error == error for error in errors[backend, dtype].values()), "NaN"
    for backend in BACKENDS:
        assert max(errors[backend, torch.float32].values()) < 1e-3, (backend, errors[backend, torch.float32])
        for dtype in (torch.bfloat16, torch.float16):
            for name, error in errors[backend, dtype].items():
                least = torch.finfo(dtype).eps
                assert error <= 2 * max(errors["eager", dtype][name], least), (backend, dtype, name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_unpadded_batches_and_packed_documents(backend: str) -> None:
    config = LongformerPlusConfig(**{**small_config(hidden_size=96).to_dict(), "model_type": "longformer_plus"})
    model = spread(LongformerPlusModel(config, add_pooling_layer=False), scale=0.1).eval().cuda()
    model.set_attn_implementation(backend)
    ids = torch.randint(3, 60, (3, 300), device="cuda")
    valid = torch.ones_like(ids)
    for row, length in enumerate((300, 120, 17)):
        valid[row, length:] = 0
    ids[valid == 0] = 1
    mask = torch.zeros_like(ids)
    mask[:, 0] = 1
    with torch.no_grad():
        alone = [
            model(ids[row : row + 1, :n], None, mask[:1, :n]).last_hidden_state[0]
            for row, n in enumerate((300, 120, 17))
        ]
        unpadded = model(ids, valid, mask).last_hidden_state[valid > 0]
        documents = torch.repeat_interleave(torch.arange(3), torch.tensor([300, 120, 17])).cuda()[None]
        packed = model(ids[valid > 0][None], None, mask[valid > 0][None], document_ids=documents).last_hidden_state[0]
    torch.testing.assert_close(unpadded, torch.cat(alone), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-4, rtol=1e-3)


def test_flex_attention_is_compiled_a_few_times_only() -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    config = LongformerPlusConfig(**{**small_config(hidden_size=96).to_dict(), "model_type": "longformer_plus"})
    model = LongformerPlusModel(config, add_pooling_layer=False).eval().cuda()
    model.set_attn_implementation("flex_attention")
    for tokens in (50, 128, 200, 300, 400, 500, 550):
        with torch.no_grad():
            model(torch.randint(3, 60, (1, tokens), device="cuda"))
    assert counters["stats"]["unique_graphs"] <= 4
