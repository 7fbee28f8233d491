"""LongformerPlusTokenizer: RoBERTa's byte-level BPE, which can also make the global attention mask."""

from __future__ import annotations

import os
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from torch import Tensor
from transformers import BatchEncoding, TokenizersBackend

from .global_attention import Policy, build_global_attention_mask
from .remote_code import describe_tokenizer

GLOBAL_ATTENTION_MASK = "global_attention_mask"


class LongformerPlusTokenizer(TokenizersBackend):
    """Tokenizer of the Longformer and RoBERTa vocabularies, on the `tokenizers` library.

    Ids and offsets are those of `transformers.RobertaTokenizer`. `tokenizer(..., global_attention=policy)` adds a
    `global_attention_mask` by a policy of `longformer_plus.global_attention`, made after truncation, and padded, here
    and in `pad`, with the other inputs.

    Args:
        vocab: token ids by token, or the path of a vocab.json.
        merges: the BPE merges, or the path of a merges.txt.
        add_prefix_space: treat the first word like one that follows a space. Needed for pre-split words.
        trim_offsets: leave the leading space out of a token's offsets.
        close_documents: put a separator at the end of a text. Leave it out for prompts of `generate`, which continues
            the text.
    """

    vocab_files_names = {"vocab_file": "vocab.json", "merges_file": "merges.txt", "tokenizer_file": "tokenizer.json"}
    model_input_names = ["input_ids", "attention_mask"]
    model = BPE  # type: ignore[assignment]

    def __init__(
        self,
        vocab: str | dict[str, int] | None = None,
        merges: str | list[str] | None = None,
        errors: str = "replace",
        bos_token: str = "<s>",
        eos_token: str = "</s>",
        sep_token: str = "</s>",
        cls_token: str = "<s>",
        unk_token: str = "<unk>",
        pad_token: str = "<pad>",
        mask_token: str | AddedToken = "<mask>",
        add_prefix_space: bool = False,
        trim_offsets: bool = True,
        close_documents: bool = True,
        **kwargs: Any,
    ) -> None:
        self.add_prefix_space = add_prefix_space
        self.trim_offsets = trim_offsets
        self.close_documents = close_documents
        if vocab is None:
            special = (cls_token, pad_token, sep_token, unk_token, mask_token)
            vocab = {str(token): index for index, token in enumerate(special)}
        # BPE accepts paths and tables; its type hints name only one of them.
        self._tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges or []))  # type: ignore[arg-type]
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
        self._tokenizer.decoder = decoders.ByteLevel()
        if isinstance(mask_token, str):
            # A mask stands for a word with the space before it, which must not become a token of its own.
            mask_token = AddedToken(mask_token, lstrip=True, normalized=False, special=True)
        super().__init__(
            errors=errors,
            bos_token=bos_token,
            eos_token=eos_token,
            sep_token=sep_token,
            cls_token=cls_token,
            unk_token=unk_token,
            pad_token=pad_token,
            mask_token=mask_token,
            add_prefix_space=add_prefix_space,
            trim_offsets=trim_offsets,
            close_documents=close_documents,
            **kwargs,
        )
        self._tokenizer.post_processor = self._post_processor()

    def _post_processor(self) -> Any:
        first, last = (str(self.cls_token), self.cls_token_id), (str(self.sep_token), self.sep_token_id)
        if self.close_documents:
            return processors.RobertaProcessing(last, first, self.trim_offsets, self.add_prefix_space)
        template = processors.TemplateProcessing(
            single=f"{first[0]} $A", pair=f"{first[0]} $A {last[0]} {last[0]} $B", special_tokens=[first, last]
        )
        return processors.Sequence([processors.ByteLevel(trim_offsets=self.trim_offsets), template])

    def _encode_plus(self, *args: Any, global_attention: Policy | None = None, **kwargs: Any) -> BatchEncoding:
        encoding = super()._encode_plus(*args, **kwargs)
        if global_attention is not None:
            encoding[GLOBAL_ATTENTION_MASK] = self.global_attention_mask(encoding, global_attention)
        return encoding

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """Save the tokenizer, and the files that `trust_remote_code=True` needs."""
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        # `_save_pretrained` has done this already, if transformers called it.
        describe_tokenizer(save_directory)
        return saved

    def _save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> tuple[str, ...]:
        # transformers calls this method after writing the configuration, and before it uploads anything.
        describe_tokenizer(save_directory)
        return super()._save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoTokenizer") -> None:
        """Do nothing: saving must not copy the files of an installed package into the checkpoint."""

    def global_attention_mask(self, encoding: BatchEncoding | dict[str, Any], policy: Policy) -> Any:
        """The global attention mask of an encoding, of the type and shape of its `input_ids` (tensor, array or lists).

        Args:
            encoding: what the tokenizer returns, padded or not.
            policy: one of `longformer_plus.global_attention.POLICIES` but "auto", or a list of token ids.

        Raises:
            ValueError: the policy is unknown, or "auto".
        """
        ids, valid = encoding["input_ids"], encoding.get("attention_mask")
        if isinstance(ids, list):
            if not ids or isinstance(ids[0], int):
                return self._mask_of_rows([ids], None if valid is None else [valid], policy)[0]
            return self._mask_of_rows(ids, valid, policy)
        mask = self._mask(torch.as_tensor(ids), None if valid is None else torch.as_tensor(valid), policy)
        return mask if isinstance(ids, Tensor) else mask.numpy()

    def _mask_of_rows(self, ids: list[list[int]], valid: list[list[int]] | None, policy: Policy) -> list[list[int]]:
        return [
            self._mask(
                torch.tensor([row], dtype=torch.long),
                None if valid is None else torch.tensor([valid[index]], dtype=torch.long),
                policy,
            )[0].tolist()
            for index, row in enumerate(ids)
        ]

    def _mask(self, ids: Tensor, valid: Tensor | None, policy: Policy) -> Tensor:
        is_token = ids != self.pad_token_id if valid is None else valid > 0
        mask = build_global_attention_mask(policy, ids, is_token, self.sep_token_id)
        return torch.zeros_like(ids) if mask is None else mask

    def _pad(  # type: ignore[override]
        self, encoded_inputs: Any, *, padding_side: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        padded = super()._pad(encoded_inputs, padding_side=padding_side, **kwargs)
        if GLOBAL_ATTENTION_MASK in padded:
            mask = list(padded[GLOBAL_ATTENTION_MASK])
            fill = [0] * (len(padded[self.model_input_names[0]]) - len(mask))
            on_the_left = (padding_side or self.padding_side) == "left"
            padded[GLOBAL_ATTENTION_MASK] = fill + mask if on_the_left else mask + fill
        return padded
