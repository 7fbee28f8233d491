"""LongformerPlusPreTrainedModel, the base class of all models of this package.

Shapes: B batch, N tokens, E hidden size.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import transformers
from packaging import version
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils.output_capturing import OutputRecorder

from ..attention import AUTO, default_backend, places_in
from ..configuration import LongformerPlusConfig
from ..global_attention import Policy, build_global_attention_mask
from ..ops.int8_weights import Int8Embedding
from .embeddings import LongformerPlusEmbeddings
from .layers import LongformerPlusLayer, LongformerPlusSelfAttention

# The configuration of the model that adapters make of their base, in their folder: PEFT keeps neither the classes nor
# their names. Called config.json it would make Auto classes take the folder for that of a whole model.
ADAPTED_CONFIG = "model_config.json"
_LOADS_HEADS_OF_ADAPTERS = version.parse("5.18")


class LongformerPlusPreTrainedModel(PreTrainedModel):
    """The base class of all LongformerPlus models: loading, initialisation, and the policy of global attention.

    It converts a `transformers.LongformerConfig`, so that Longformer checkpoints load unchanged.
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

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """`PreTrainedModel.from_pretrained`; from the folder of adapters, a model with their head and its classes.

        The Auto classes and pipelines, which load the base and then the adapters, pass on the base's configuration.

        Raises:
            ValueError: this is a folder of adapters, and a transformers that leaves out their head.
        """
        adapters = (kwargs.get("adapter_kwargs") or {}).get("_adapter_model_path", pretrained_model_name_or_path)
        if isinstance(adapters, (str, os.PathLike)) and (own := Path(adapters) / ADAPTED_CONFIG).is_file():
            if version.parse(transformers.__version__) < _LOADS_HEADS_OF_ADAPTERS:
                raise ValueError(
                    f"transformers {transformers.__version__} loads the adapters in {adapters} without their head. Use "
                    "longformer_plus.integrations.adapters.load_adapted, or a transformers from "
                    f"{_LOADS_HEADS_OF_ADAPTERS}."
                )
            kwargs["config"] = LongformerPlusConfig.from_json_file(own)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        """Resolve `attn_implementation`: None means `default_backend()`; transformers does not know "auto"."""
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
        """Change the number of positions: more are copies of the existing ones (the paper's section 5).

        Args:
            new_num_position_embeddings: rows of the table, the new `config.max_position_embeddings`. The first
                `config.pad_token_id` + 1 rows are not for tokens.

        Raises:
            ValueError: no row would be left for tokens.
        """
        self._embeddings().resize_positions(new_num_position_embeddings)
        self.config.max_position_embeddings = new_num_position_embeddings

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Embedding:
        """`PreTrainedModel.resize_token_embeddings`.

        Raises:
            ValueError: the embeddings are in int8, and would change.
        """
        embeddings = self.get_input_embeddings()
        if isinstance(embeddings, Int8Embedding):
            if new_num_tokens not in (None, embeddings.num_embeddings):
                raise ValueError(
                    f"new_num_tokens={new_num_tokens} is not allowed: the word embeddings are in int8, and stay "
                    f"{embeddings.num_embeddings}. Resize the model in float32, then quantise it."
                )
            return embeddings  # type: ignore[return-value]
        return super().resize_token_embeddings(new_num_tokens, *args, **kwargs)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether layers compute their activations again in the backward pass.

        PEFT reads this property of every model that it adapts. transformers' own property of this name logs a warning,
        which users of PEFT could do nothing about.
        """
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())

    def choose_global_attention(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        segments: Tensor | None = None,
    ) -> Tensor | None:
        """Make the global attention mask of a batch without one, by `config.global_attention`.

        Args:
            input_ids: (B, N), or None.
            inputs_embeds: (B, N, E), or None.
            attention_mask: (B, N), or None.
            segments: (B, N), if rows hold several documents; each document gets global tokens.

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
