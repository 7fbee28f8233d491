#!/bin/sh
# Make the checkpoint of the package again: from texts to what lies in longformer_plus/shipped, and the tables and plots of
# MODEL_CARD.md.
#     make checkpoint DATA=where/the/texts/are OUT=where/to/write
# Every step can be stopped, and goes on where it was when the same command is given again, also on another machine to which
# OUT was copied. With INTO=a folder all is put there, and the package stays as it is. The sizes are for a GPU; without
# one, fewer tokens in smaller steps: ROWS=4 CAUSAL_STEPS=3000 SHORT_STEPS=25000 LONG_STEPS=4000 RATE=1e-3 LONG_RATE=5e-4.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)
: "${DATA:?say where the texts are}" "${OUT:?say where to write}" "${INTO:=$HERE/../../..}"
: "${LAYERS:=4}" "${WIDTH:=256}" "${VOCABULARY:=8192}"
# Rows of 512 tokens in a step, steps from left to right, steps on hidden words, steps with rows of 4096 tokens.
: "${ROWS:=256}" "${CAUSAL_STEPS:=150}" "${SHORT_STEPS:=3200}" "${LONG_STEPS:=1000}" "${ENTITY_EPOCHS:=10}"
: "${CAUSAL_RATE:=1e-3}" "${RATE:=2e-3}" "${LONG_RATE:=1e-3}"
# Processes that prepare batches: a step on a GPU needs many of them.
: "${WORKERS:=$((($(getconf _NPROCESSORS_ONLN) - 1) * 3 / 4))}"
TEXT=$DATA/pretraining
mix() { # shares of the tokens: textbooks, speeches, novels of ELTeC and of Gutenberg, PEPs, EIPs, Rust RFCs
  for name in openstax_ccby us_president_speeches eltec_eng litbank_gutenberg_novels peps eips rust_rfcs; do
    echo "$TEXT/$name.train.jsonl.xz=$1"
    shift
  done
}
MODEL="{\"hidden_size\": $WIDTH, \"num_hidden_layers\": $LAYERS, \"num_attention_heads\": $((WIDTH / 64)),
  \"intermediate_size\": $((WIDTH * 4)), \"max_position_embeddings\": 514, \"attention_window\": 1024,
  \"type_vocab_size\": 1, \"layer_norm_eps\": 1e-5, \"hidden_dropout_prob\": 0.0, \"attention_probs_dropout_prob\": 0.0}"
ENTITIES=$DATA/token_classification
mkdir -p "$OUT/scores"

# Ctrl-C ends the step, which saves where it is; the script then notes its seconds and ends.
trap : INT

machine() {
  python - <<'PYTHON'
import torch
from longformer_plus.benchmark.measuring import environment

found = environment("cuda" if torch.cuda.is_available() else "cpu")
print(f"{found.get('gpu', found['processor'])}, torch {found['torch']}, {found['date']}")
PYTHON
}
MACHINE=$(machine)

# stage NAME COMMAND...: do it unless it is done, and note the seconds and the machine, also of a part that was stopped.
stage() {
  name=$1
  shift
  if [ -e "$OUT/done-$name" ]; then return; fi
  start=$(date +%s)
  status=0
  "$@" || status=$?
  echo "$name $(($(date +%s) - start)) $MACHINE" >> "$OUT/seconds"
  if [ "$status" != 0 ]; then exit "$status"; fi
  touch "$OUT/done-$name"
}
pretrain() {
  # shellcheck disable=SC2046
  longformer-plus train --train $(mix 28 5 24 18 10 6 9) --eval "$TEXT"/*.validation.jsonl.xz --tokenizer "$OUT/tokenizer" \
    --workers "$WORKERS" --log-every 50 --resume "$@"
}

# The vocabulary of the first checkpoint, which had read more textbooks: losses can be compared, and token ids stay.
# shellcheck disable=SC2046
stage tokenizer longformer-plus tokenizer $(mix 38 12 16 16 6 6 6) --size "$VOCABULARY" --output "$OUT/tokenizer"

# Words from left to right, in rows of 512 tokens.
stage causal pretrain --task text-generation --config "$MODEL" --batch "$ROWS" --max-steps "$CAUSAL_STEPS" \
  --learning-rate "$CAUSAL_RATE" --schedule constant_with_warmup --warmup 0.04 --max-eval-rows 32 --output "$OUT/causal"

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
