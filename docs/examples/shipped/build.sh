#!/bin/sh
# How the checkpoint of the package was made, from text to what lies in longformer_plus/shipped: see MODEL_CARD.md.
#     DATA=where/the/texts/are OUT=where/to/write sh docs/examples/shipped/build.sh
# Every step can be stopped, and resumed by the same command.
set -eu
TEXT=$DATA/pretraining
MIX="$TEXT/openstax_ccby.train.jsonl.xz=38 $TEXT/us_president_speeches.train.jsonl.xz=12
  $TEXT/eltec_eng.train.jsonl.xz=16 $TEXT/litbank_gutenberg_novels.train.jsonl.xz=16
  $TEXT/peps.train.jsonl.xz=6 $TEXT/eips.train.jsonl.xz=6 $TEXT/rust_rfcs.train.jsonl.xz=6"
MODEL='{"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024,
  "max_position_embeddings": 514, "attention_window": 1024, "type_vocab_size": 1, "layer_norm_eps": 1e-5,
  "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}'
pretrain() { longformer-plus train --train $MIX --eval "$TEXT"/*.validation.jsonl.xz --resume "$@"; }

# 1. A vocabulary, from the same mixture.
[ -d "$OUT/tokenizer" ] || longformer-plus tokenizer $MIX --size 8192 --output "$OUT/tokenizer"

# 2. Words from left to right, in rows of 512 tokens. Its checkpoint half way is enough of a start: stop it there, or let
# it run to its end, for all checkpoints are kept.
[ -d "$OUT/causal/checkpoint-3000" ] || pretrain --task text-generation --config "$MODEL" --tokenizer "$OUT/tokenizer" \
  --batch 4 --max-steps 6000 --learning-rate 1e-3 --warmup 0.02 --max-eval-rows 32 --keep 12 --output "$OUT/causal"

# 3. Hidden words, in both directions.
pretrain --task fill-mask --model "$OUT/causal/checkpoint-3000" --config '{"is_causal": false}' \
  --tokenizer "$OUT/tokenizer" --masked-share 0.25 --batch 4 --max-steps 10000 --learning-rate 1e-3 --warmup 0.02 \
  --seed 1 --output "$OUT/short"

# 4. 4096 positions and a window of 256, by way of a RoBERTa; then rows of 4096 tokens.
[ -d "$OUT/roberta" ] || longformer-plus convert "$OUT/short" "$OUT/roberta" --to roberta
[ -d "$OUT/converted" ] || longformer-plus convert "$OUT/roberta" "$OUT/converted" --attention-window 256 --max-length 4096
pretrain --task fill-mask --model "$OUT/converted" --tokenizer "$OUT/tokenizer" --masked-share 0.25 --batch 1 \
  --max-steps 2000 --learning-rate 5e-4 --warmup 0.05 --seed 2 --output "$OUT/long"

# 5. Entities.
longformer-plus train --task token-classification --model "$OUT/long" --resume \
  --train "$DATA/token_classification/litbank.train.jsonl.xz" --eval "$DATA/token_classification/litbank.test.jsonl.xz" \
  --lora 16 --lora-targets all-linear --epochs 10 --batch 2 --learning-rate 2e-3 --output "$OUT/entities"

# 6. Into the package.
python "$(dirname "$0")/pack.py" "$OUT/long" "$OUT/tokenizer" "token-classification=$OUT/entities"
