#!/usr/bin/env bash
# What only a machine with a GPU can show: its tests, times and memory, and a larger checkpoint than a CPU can train.
#
#     make gpu                               with an environment of its own
#     make gpu BIN=/usr/bin                  with the python3 there, which has torch and what pyproject.toml asks for
#     make gpu DEVICE=cpu LENGTHS="64 128" TOKENS=128 LAYERS=1 DTYPE=float32 REPEATS=1 BACKENDS=sdpa
#
# Each step ends in less than ten minutes and leaves a file in WORK. Stopped by hand or by the clock, the same command
# goes on with the step that was not done; training with its last checkpoint. A step that fails does not stop the others,
# and is tried again next time.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit

PYTHON=${PYTHON:-python3}
DEVICE=${DEVICE:-cuda}
WORK=${WORK:-build/gpu}
RESULTS=${RESULTS:-docs/results/benchmarks}
DATA=${DATA:-shared/data}
STEPS=${STEPS:-tests forward training report pretraining lengthening tagging classification}
STEP_SECONDS=${STEP_SECONDS:-570}
ALL_SECONDS=${ALL_SECONDS:-1740}

# The benchmark: a GPU filled with 131,072 tokens, whatever the length.
DTYPE=${DTYPE:-bfloat16}
LENGTHS=${LENGTHS:-1024 4096 16384 65536 131072}
TOKENS=${TOKENS:-131072}
LAYERS=${LAYERS:-12}
REPEATS=${REPEATS:-3}
LIMITS=${LIMITS:-transformers=16384 modernbert=16384}
BACKENDS=${BACKENDS:-sdpa flex_attention}

# The checkpoint: 23 million parameters, on the texts and with the vocabulary of the one in the package.
MODEL=${MODEL:-'{"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 2048,
  "max_position_embeddings": 514, "attention_window": 1024, "type_vocab_size": 1, "layer_norm_eps": 1e-5,
  "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}'}
PRETRAINING_STEPS=${PRETRAINING_STEPS:-12000}
PRETRAINING_BATCH=${PRETRAINING_BATCH:-64}
LENGTHENING_STEPS=${LENGTHENING_STEPS:-2000}
LENGTHENING_BATCH=${LENGTHENING_BATCH:-8}
MAX_LENGTH=${MAX_LENGTH:-4096}
FINE_TUNING_EPOCHS=${FINE_TUNING_EPOCHS:-4}
MAX_ROWS=${MAX_ROWS:-}

longformer_plus() { "$PYTHON" -m longformer_plus.cli "$@"; }

after() { # STEP...: whether these are done
  local step
  for step in "$@"; do
    [ -e "$WORK/$step.done" ] || { echo "comes after $step, which is not done" && return 1; }
  done
}

tests() { "$PYTHON" -m pytest -m gpu --durations=10 tests/model/test_gpu.py; }

benchmark() { # WORK_TO_MEASURE
  rm -f "$RESULTS/$DEVICE-$1.json"
  # shellcheck disable=SC2086
  longformer_plus bench --work "$1" --device "$DEVICE" --dtype "$DTYPE" --layers "$LAYERS" --repeats "$REPEATS" \
    --lengths $LENGTHS --tokens "$TOKENS" --backends $BACKENDS --models transformers longformer_plus modernbert \
    --limit $LIMITS --profile --json "$RESULTS/$DEVICE-$1.json"
}
forward() { benchmark forward; }
training() { benchmark training; }

report() { # the table and the plot of the README
  after forward training || return
  longformer_plus bench --from "$RESULTS/$DEVICE-forward.json" "$RESULTS/$DEVICE-training.json" --markdown \
    --plot "$RESULTS/$DEVICE.svg" >"$RESULTS/$DEVICE.md" && cat "$RESULTS/$DEVICE.md"
}

train() { longformer_plus train --resume --attn-implementation auto --save-every 200 "$@"; }
pretrain() {
  local text=$DATA/pretraining
  train --task fill-mask --masked-share 0.25 --max-eval-rows 64 --tokenizer "$WORK/tokenizer" \
    --train "$text"/openstax_ccby.train.jsonl.xz=38 "$text"/us_president_speeches.train.jsonl.xz=12 \
    "$text"/eltec_eng.train.jsonl.xz=16 "$text"/litbank_gutenberg_novels.train.jsonl.xz=16 \
    "$text"/peps.train.jsonl.xz=6 "$text"/eips.train.jsonl.xz=6 "$text"/rust_rfcs.train.jsonl.xz=6 \
    --eval "$text"/*.validation.jsonl.xz "$@"
}
pretraining() { # rows of 512 tokens, which see one another
  "$PYTHON" -c "
import sys
from transformers import AutoTokenizer
import longformer_plus
AutoTokenizer.from_pretrained(longformer_plus.shipped_checkpoint()).save_pretrained(sys.argv[1])" "$WORK/tokenizer" &&
    pretrain --config "$MODEL" --batch "$PRETRAINING_BATCH" --max-steps "$PRETRAINING_STEPS" --learning-rate 1e-3 \
      --output "$WORK/short"
}
lengthening() { # 4096 positions and a window of 512, by way of a RoBERTa
  after pretraining || return
  [ -d "$WORK/roberta" ] || longformer_plus convert "$WORK/short" "$WORK/roberta" --to roberta || return
  [ -d "$WORK/converted" ] ||
    longformer_plus convert "$WORK/roberta" "$WORK/converted" --attention-window 512 --max-length "$MAX_LENGTH" || return
  pretrain --model "$WORK/converted" --batch "$LENGTHENING_BATCH" --max-steps "$LENGTHENING_STEPS" \
    --learning-rate 5e-4 --output "$WORK/long"
}
fine_tune() { # TASK TRAIN EVAL OUTPUT
  after lengthening || return
  train --task "$1" --model "$WORK/long" --train "$DATA/$2" --eval "$DATA/$3" --epochs "$FINE_TUNING_EPOCHS" --batch 8 \
    --learning-rate 1e-4 ${MAX_ROWS:+--max-train-rows "$MAX_ROWS" --max-eval-rows "$MAX_ROWS"} --output "$WORK/$4"
}
tagging() {
  fine_tune token-classification token_classification/litbank.train.jsonl.xz token_classification/litbank.test.jsonl.xz \
    entities
}
classification() {
  fine_tune text-classification text_classification/movie_reviews.train.jsonl.xz \
    text_classification/movie_reviews.test.jsonl.xz reviews
}

# A step runs as a call of this script, so that it can be stopped by the clock.
if [ "${1:-}" = step ]; then
  "$2"
  exit
fi

[ "$DEVICE" != cuda ] || "$PYTHON" -c "import torch; assert torch.cuda.is_available(), 'torch sees no GPU here'" || exit
mkdir -p "$WORK" "$RESULTS"
# The folders beside the package are found only where it is installed.
"$PYTHON" -c "import longformer_plus.integrations" 2>"$WORK/import.log" ||
  "$PYTHON" -m pip install --quiet --no-deps --no-build-isolation --editable . || exit

export PYTHON DEVICE WORK RESULTS DATA DTYPE LENGTHS TOKENS LAYERS REPEATS LIMITS BACKENDS MODEL PRETRAINING_STEPS \
  PRETRAINING_BATCH LENGTHENING_STEPS LENGTHENING_BATCH MAX_LENGTH FINE_TUNING_EPOCHS MAX_ROWS
failed=()
for step in $STEPS; do
  if [ -e "$WORK/$step.done" ]; then
    echo "$step: done before"
    continue
  fi
  left=$((ALL_SECONDS - SECONDS))
  if [ "$left" -le 0 ]; then
    echo "$step: no time is left; the same command goes on here"
    exit 1
  fi
  echo "$step: $WORK/$step.log"
  start=$SECONDS
  timeout "$((left < STEP_SECONDS ? left : STEP_SECONDS))" bash docs/examples/gpu.sh step "$step" >"$WORK/$step.log" 2>&1
  status=$?
  tail -n 20 "$WORK/$step.log"
  echo "$step: $((SECONDS - start)) seconds, exit status $status (124: stopped by the clock)"
  if [ "$status" -eq 0 ]; then touch "$WORK/$step.done"; else failed+=("$step"); fi
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "not done: ${failed[*]}"
  exit 1
fi
