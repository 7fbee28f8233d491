"""LongformerPlusPreTrainedModel: what every model of this package shares.

Shapes: B batch, N tokens, E hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils.output_capturing import OutputRecorder

from ..attention import AUTO, default_backend, places_in
from ..configuration import LongformerPlusConfig
from ..global_attention import Policy, build_global_attention_mask
from .embeddings import LongformerPlusEmbeddings
from .layers import LongformerPlusLayer, LongformerPlusSelfAttention


class LongformerPlusPreTrainedModel(PreTrainedModel):
    """What all LongformerPlus models share: loading, initialisation, and the policy of global attention.

    A `transformers.LongformerConfig` is converted where one is given, so that Longformer checkpoints load as they are.
    """

    config: LongformerPlusConfig
    config_class = LongformerPlusConfig
    base_model_prefix = "longformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LongformerPlusEmbeddings", "LongformerPlusLayer"]
    _supports_sdpa = True
    _supports_flex_attn = True
    # A buffer in checkpoints written before transformers 4.31.
    _keys_to_ignore_on_load_unexpected = [r"embeddings\.position_ids$"]
    _can_record_outputs = {
        "hidden_states": LongformerPlusLayer,
        "attentions": OutputRecorder(LongformerPlusSelfAttention, index=1),
        "global_attentions": OutputRecorder(LongformerPlusSelfAttention, index=2),
    }

    # What global_attention="auto" means. A head gives its own meaning to its encoder.
    auto_global_attention: Policy = "none"

    def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        config = LongformerPlusConfig.from_longformer(config)
        config.check_for_model()
        super().__init__(config, *args, **kwargs)

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        """The backend that is meant by `attn_implementation`: `default_backend()` by None. "auto" is this package's."""
        wanted = default_backend() if requested_attention is None else requested_attention
        return AUTO if wanted == AUTO else super().get_correct_attn_implementation(wanted, is_init_check)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(bias := getattr(module, "bias", None), nn.Parameter):
            init.zeros_(bias)

    def get_position_embeddings(self) -> nn.Embedding:
        """The position embeddings: row `pad_token_id` + 1 is the first token's."""
        return self._embeddings().position_embeddings

    def _embeddings(self) -> LongformerPlusEmbeddings:
        return self.base_model.embeddings  # type: ignore[return-value]

    def resize_position_embeddings(self, new_num_position_embeddings: int) -> None:
        """Give the model another number of positions: copies of those it has (the paper's section 5), or fewer.

        Args:
            new_num_position_embeddings: rows of the table, `config.max_position_embeddings`; of these the first
                `config.pad_token_id` + 1 are for no token.

        Raises:
            ValueError: there would be no row for tokens.
        """
        self._embeddings().resize_positions(new_num_position_embeddings)
        self.config.max_position_embeddings = new_num_position_embeddings

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether layers compute their activations again in the backward pass.

        PEFT asks by this name wherever it adapts a model. transformers' own property of that name warns its users, who
        have not asked, to use another.
        """
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())

    def choose_global_attention(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        segments: Tensor | None = None,
    ) -> Tensor | None:
        """The global attention mask of a batch that comes without one, by `config.global_attention`.

        Args:
            input_ids: (B, N), or None.
            inputs_embeds: (B, N, E), or None.
            attention_mask: (B, N), or None.
            segments: (B, N) where rows hold several documents; each of them gets its global tokens.

        Returns:
            (B, N) of 0 and 1, or None where no token attends globally.
        """
        policy: Policy = self.config.global_attention
        if policy == "auto":
            policy = self.auto_global_attention
        batch = input_ids if input_ids is not None else inputs_embeds
        if policy == "none" or batch is None:
            return None
        if attention_mask is None:
            valid = torch.ones(batch.shape[:2], dtype=torch.bool, device=batch.device)
        else:
            valid = attention_mask > 0
        places = None if segments is None else places_in(segments)
        return build_global_attention_mask(policy, input_ids, valid, self.config.sep_token_id, places)
