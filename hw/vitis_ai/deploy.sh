#!/usr/bin/env bash
# Copy the compiled pieces and the host program to a board, and run it there.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=/dev/null
source "$root/hw/arguments.bash"

check_arguments "usage: $(basename "$0") BOARD FOLDER [options of run_vart.py]

BOARD is what ssh takes, root@192.168.1.100 for instance; it runs the ZCU104 image of Vitis AI 3.0, with
Python 3.9 or later in which numpy, torch, onnxruntime and AMD's xir and vart can be imported.
Environment: BOARD_PYTHON, the interpreter there (default: python3)." 2 $# "$@"

board=$1 folder=$2
shift 2
python=${BOARD_PYTHON:-python3}
[[ -f $folder/manifest.json ]] || fail "$folder holds no pieces; make them with: python -m lib.vitis.build --out $folder"
for piece in "$folder"/*_dpu.onnx; do
  [[ -f ${piece%.onnx}.xmodel ]] || fail "$folder is not compiled; run hw/vitis_ai/compile.sh $folder first"
done
command -v ssh >/dev/null || fail "ssh is not installed; get it with: apt-get install openssh-client"
options=(-o ConnectTimeout=5 -o BatchMode=yes)
on_board() {
  # shellcheck disable=SC2029 # the command is put together here, for the board's shell to run
  ssh "${options[@]}" "$board" "$1"
}
on_board true 2>/dev/null ||
  fail "$board does not answer within five seconds, or refuses the key; check the address, the cable and ssh-copy-id"
on_board "$python -c 'import numpy, torch, onnxruntime, xir, vart'" ||
  fail "$python on $board lacks a package (above); install it there, or name another with BOARD_PYTHON"

on_board "rm -rf book/dpu && mkdir -p book/dpu book/hw/vitis_ai" # nothing of an earlier model stays
scp -q "${options[@]}" -r "$root/lib" "$board:book/"
scp -q "${options[@]}" "$root/hw/vitis_ai/run_vart.py" "$board:book/hw/vitis_ai/"
scp -q "${options[@]}" "$folder"/manifest.json "$folder"/*.onnx "$folder"/*_dpu.xmodel "$board:book/dpu/"
words=
(($#)) && words=$(printf ' %q' "$@")
on_board "$python book/hw/vitis_ai/run_vart.py --runner vart --model book/dpu$words"
