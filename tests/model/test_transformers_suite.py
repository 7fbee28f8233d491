"""transformers' own model tests, run on the classes of this package."""

from __future__ import annotations

import unittest
from typing import Any

import pytest
import torch

from longformer_plus import (
    LongformerPlusConfig,
    LongformerPlusForCausalLM,
    LongformerPlusForMaskedLM,
    LongformerPlusForMultipleChoice,
    LongformerPlusForQuestionAnswering,
    LongformerPlusForSequenceClassification,
    LongformerPlusForTokenClassification,
    LongformerPlusModel,
)

from ..tools.transformers_suite import SUITE

if not SUITE.is_available():
    pytest.skip("run `python -m tests.tools.transformers_suite` to fetch the suite", allow_module_level=True)

_common = SUITE.load("test_modeling_common")
_configuration = SUITE.load("test_configuration_common")


class LongformerPlusModelTester:
    """A small model and a batch for it, in the form that the suite asks for."""

    batch_size = 13
    seq_length = 21
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    num_labels = 3
    num_choices = 4
    is_training = True
    vocab_size = 99
    # Attention probabilities have one column for each key of the window, the token's own among them.
    key_length = 9

    def __init__(self, parent: Any) -> None:
        self.parent = parent

    def get_config(self) -> LongformerPlusConfig:
        return LongformerPlusConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            attention_window=8,
            max_position_embeddings=64,
            type_vocab_size=2,
            attention_probs_dropout_prob=0.1,
            hidden_dropout_prob=0.1,
            global_attention="none",
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[LongformerPlusConfig, dict[str, torch.Tensor]]:
        input_ids = torch.randint(3, self.vocab_size, (self.batch_size, self.seq_length))
        attention_mask = torch.ones_like(input_ids)
        attention_mask[::2, -3:] = 0
        return self.get_config(), {
            "input_ids": input_ids,
            "token_type_ids": torch.randint(0, 2, input_ids.shape),
            "attention_mask": attention_mask,
        }


@pytest.mark.filterwarnings("ignore")
class LongformerPlusSuiteTest(_common.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (
        LongformerPlusModel,
        LongformerPlusForMaskedLM,
        LongformerPlusForCausalLM,
        LongformerPlusForSequenceClassification,
        LongformerPlusForQuestionAnswering,
        LongformerPlusForTokenClassification,
        LongformerPlusForMultipleChoice,
    )
    model_tester_class = LongformerPlusModelTester
    test_resize_position_embeddings = True

    def setUp(self) -> None:
        self.model_tester = LongformerPlusModelTester(self)

    def test_config(self) -> None:
        for hidden_size in (32, 37):  # of which neither is a multiple of the default's heads
            tester = _configuration.ConfigTester(self, config_class=LongformerPlusConfig, hidden_size=hidden_size)
            tester.run_common_tests()

    @unittest.skip("the suite's tests of generation are not in the source distribution")
    def test_generation_tester_mixin_inheritance(self) -> None:
        pass
