#!/bin/sh
# Make the checkpoint of the package again: from texts to what lies in longformer_plus/shipped, and the tables and plots of
# MODEL_CARD.md.
#     make checkpoint DATA=where/the/texts/are OUT=where/to/write
# Every step can be stopped, and goes on where it was when the same command is given again. With INTO=a folder all is put
# there, and the package stays as it is. On a GPU a step reads more: ROWS=256 and fewer steps; see docs/results/shipped.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)
: "${DATA:?say where the texts are}" "${OUT:?say where to write}" "${INTO:=$HERE/../../..}"
: "${LAYERS:=4}" "${VOCABULARY:=8192}"
# Rows of 512 tokens in a step, steps from left to right, steps on hidden words, steps with rows of 4096 tokens.
: "${ROWS:=4}" "${CAUSAL_STEPS:=3000}" "${SHORT_STEPS:=25000}" "${LONG_STEPS:=4000}" "${ENTITY_EPOCHS:=10}"
: "${RATE:=1e-3}" "${LONG_RATE:=5e-4}"
TEXT=$DATA/pretraining
MIX="$TEXT/openstax_ccby.train.jsonl.xz=38 $TEXT/us_president_speeches.train.jsonl.xz=12
  $TEXT/eltec_eng.train.jsonl.xz=16 $TEXT/litbank_gutenberg_novels.train.jsonl.xz=16
  $TEXT/peps.train.jsonl.xz=6 $TEXT/eips.train.jsonl.xz=6 $TEXT/rust_rfcs.train.jsonl.xz=6"
MODEL="{\"hidden_size\": 256, \"num_hidden_layers\": $LAYERS, \"num_attention_heads\": 4, \"intermediate_size\": 1024,
  \"max_position_embeddings\": 514, \"attention_window\": 1024, \"type_vocab_size\": 1, \"layer_norm_eps\": 1e-5,
  \"hidden_dropout_prob\": 0.0, \"attention_probs_dropout_prob\": 0.0}"
ENTITIES=$DATA/token_classification
mkdir -p "$OUT/scores"

# Ctrl-C ends the step, which saves where it is; the script then notes its seconds and ends.
trap : INT

# stage NAME COMMAND...: do it unless it is done, and note the seconds, also of a part that was stopped.
stage() {
  name=$1
  shift
  if [ -e "$OUT/done-$name" ]; then return; fi
  start=$(date +%s)
  status=0
  "$@" || status=$?
  echo "$name $(($(date +%s) - start))" >> "$OUT/seconds"
  if [ "$status" != 0 ]; then exit "$status"; fi
  touch "$OUT/done-$name"
}
pretrain() {
  longformer-plus train --train $MIX --eval "$TEXT"/*.validation.jsonl.xz --tokenizer "$OUT/tokenizer" --resume "$@"
}

stage tokenizer longformer-plus tokenizer $MIX --size "$VOCABULARY" --output "$OUT/tokenizer"

# Words from left to right, in rows of 512 tokens.
stage causal pretrain --task text-generation --config "$MODEL" --batch "$ROWS" --max-steps "$CAUSAL_STEPS" \
  --learning-rate "$RATE" --schedule constant_with_warmup --warmup 0.04 --max-eval-rows 32 --output "$OUT/causal"

# Hidden words, in both directions.
stage short pretrain --task fill-mask --model "$OUT/causal" --config '{"is_causal": false}' --masked-share 0.25 \
  --batch "$ROWS" --max-steps "$SHORT_STEPS" --learning-rate "$RATE" --warmup 0.02 --seed 1 --output "$OUT/short"

# 4096 positions and a window of 512, by way of a RoBERTa; then rows of 4096 tokens.
stage roberta longformer-plus convert "$OUT/short" "$OUT/roberta" --to roberta
stage converted longformer-plus convert "$OUT/roberta" "$OUT/converted" --attention-window 512 --max-length 4096
stage long pretrain --task fill-mask --model "$OUT/converted" --masked-share 0.25 --batch "$(((ROWS + 7) / 8))" \
  --max-steps "$LONG_STEPS" --learning-rate "$LONG_RATE" --warmup 0.05 --seed 2 --output "$OUT/long"

# Entities.
stage entities longformer-plus train --task token-classification --model "$OUT/long" --resume \
  --train "$ENTITIES/litbank.train.jsonl.xz" --eval "$ENTITIES/litbank.test.jsonl.xz" --lora 16 \
  --lora-targets all-linear --epochs "$ENTITY_EPOCHS" --batch 2 --learning-rate 2e-3 --output "$OUT/entities"

# How good they are.
stage score-hidden longformer-plus evaluate --task fill-mask --model "$OUT/long" --json "$OUT/scores/hidden.json" \
  --eval "$TEXT"/*.validation.jsonl.xz --max-rows 6
stage score-articles longformer-plus evaluate --task fill-mask --model "$OUT/long" --json "$OUT/scores/articles.json" \
  --eval "$DATA/question_answering/squad_v1.1.validation.jsonl.xz" --max-rows 12 --columns text=context --join-by title
stage score-entities longformer-plus evaluate --task token-classification --model "$OUT/entities" \
  --json "$OUT/scores/entities.json" --eval "$ENTITIES/litbank.test.jsonl.xz" --train "$ENTITIES/litbank.train.jsonl.xz"
prompts() (
  IFS='
'
  longformer-plus evaluate --task fill-mask --model "$OUT/long" --json "$OUT/scores/prompts.json" \
    --prompts $(cat "$HERE/prompts.txt")
)
stage score-prompts prompts

# Into the package, and what its card says.
python "$HERE/pack.py" "$OUT" "$INTO/longformer_plus/shipped"
python "$HERE/card.py" "$OUT" "$INTO"
echo "Wrote the checkpoint, and the tables and plots of its card. Read the card's sentences: they are not written for you."
