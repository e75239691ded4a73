#!/usr/bin/env bash
# From ONNX to OpenVINO's IR, in FP32 and in FP16: the report's Model Optimizer step with today's tool.
#
# The report calls    mo --input_model M.onnx --output_dir DIR --data_type FP16 --model_name NAME
# mo is gone; this is ovc M.onnx --output_model DIR/NAME.xml --compress_to_fp16=True
# and FP32 has to be asked for, since ovc stores FP16 by default.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=/dev/null
source "$root/hw/arguments.bash"

check_arguments "usage: $(basename "$0") MODEL.onnx FOLDER [CONFIG]

Writes FOLDER/NAME.fp32.xml and FOLDER/NAME.fp16.xml, NAME being that of MODEL.onnx,
each with its .bin and a card, .json, that says what the pair holds.
CONFIG names the model's configuration in lib/gpt.py: pocket (default), nano or report.
Environment: PYTHON, the interpreter to use (default: the repository's .venv, else python3)." 2 3 "$@"

model=$1 folder=$2 config=${3:-pocket}
[[ -f $model ]] || fail "the ONNX file $model does not exist; check the path"

if [[ -z ${PYTHON:-} ]]; then
  PYTHON=$root/.venv/bin/python
  [[ -x $PYTHON ]] || PYTHON=python3
fi
PYTHON=$(command -v "$PYTHON") || fail "the interpreter that PYTHON names does not exist; correct it"
[[ $PYTHON == /* ]] || PYTHON=$PWD/$PYTHON
tools=$(dirname "$PYTHON")
ovc=$tools/ovc
[[ -x $ovc ]] || ovc=$(command -v ovc) || fail "ovc is not installed; get it with: $PYTHON -m pip install openvino"

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
name=$(basename "$model" .onnx)
for precision in fp32 fp16; do
  compress=False
  [[ $precision == fp16 ]] && compress=True
  "$ovc" "$model" --output_model "$folder/$name.$precision.xml" --compress_to_fp16=$compress >&2 ||
    fail "ovc does not take $model (above); export it with lib.export"
  (cd "$root" && "$PYTHON" -m lib.intel.convert "$folder/$name.$precision.xml" \
    --config "$config" --source "$(basename "$model")")
done
