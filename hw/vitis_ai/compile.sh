#!/usr/bin/env bash
# From the quantised pieces to xmodels for the DPU of a ZCU104.
#
# The report's commands, vai_q_onnx and vai_c_onnx, are no more: AMD Quark quantises (python -m lib.vitis.build, on any
# machine, makes FOLDER), and the compiler of Vitis AI 3.0 is vai_c_xir, in AMD's container, where this script runs.
# 3.0 is the last with a board image for the ZCU104; the tag "latest" is 3.5.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=/dev/null
source "$root/hw/arguments.bash"

check_arguments "usage: $(basename "$0") FOLDER [ARCH.json]

Compiles every FOLDER/NN_dpu.onnx to FOLDER/NN_dpu.xmodel, for the DPU that ARCH.json describes
(default: the container's own for the ZCU104). Run it in the Vitis AI 3.0 container:
  docker run -it --rm -v \"\$PWD:/workspace\" -w /workspace xilinx/vitis-ai-pytorch-cpu:ubuntu2004-3.0.0.106 bash
  conda activate vitis-ai-pytorch && hw/vitis_ai/compile.sh out/dpu" 1 2 "$@"

folder=$1 arch=${2:-/opt/vitis_ai/compiler/arch/DPUCZDX8G/ZCU104/arch.json}
python=${PYTHON:-python3}
[[ -f $folder/manifest.json ]] || fail "$folder holds no pieces; make them with: python -m lib.vitis.build --out $folder"
PYTHONPATH=$root "$python" -m lib.vitis.arch "$arch"
command -v vai_c_xir >/dev/null ||
  fail "vai_c_xir is not installed; run this in the container xilinx/vitis-ai-pytorch-cpu of Vitis AI 3.0"
for package in numpy onnx xir; do
  "$python" -c "import $package" 2>/dev/null ||
    fail "$package cannot be imported; run: conda activate vitis-ai-pytorch, and there pip install onnx if it lacks that"
done

"$python" "$root/hw/vitis_ai/to_xmodel.py" "$folder"
for graph in "$folder"/*_dpu.xir; do
  name=$(basename "$graph" .xir)
  vai_c_xir --xmodel "$graph" --arch "$arch" --output_dir "$folder" --net_name "$name"
  [[ -f $folder/$name.xmodel ]] || fail "vai_c_xir wrote no $folder/$name.xmodel; see its messages above"
done
echo "$folder is compiled; carry it to the board with: hw/vitis_ai/deploy.sh BOARD $folder"
