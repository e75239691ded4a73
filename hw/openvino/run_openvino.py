#!/usr/bin/env python3
"""Write text with an IR of the model, one token at a time: the report's host application (section 5.3).

    .venv/bin/python hw/openvino/run_openvino.py --model out/pocket.fp32.xml --prompt "Once upon a time" --length 200

The same command runs on an FPGA: FPGA_AI_SUITE_PLUGINS=<the suite's plugins.xml>, and --device HETERO:FPGA,CPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs from any folder

from lib.errors import BookError, run_command  # noqa: E402


def main() -> None:
    try:
        from lib.gpt import CONFIGS
        from lib.intel.convert import load_ir
        from lib.intel.run import STEPS
        from lib.program import add_generation, continued
        from lib.text import encode_prompt
    except ImportError as error:
        raise BookError(
            f"a package is missing ({error}); run this with the book's .venv/bin/python, or pip install it"
        ) from None
    parser = argparse.ArgumentParser(prog="run_openvino.py", description="Write text with an IR of the model.")
    parser.add_argument("--model", type=Path, required=True, help="the .xml of a step IR, or of a stateful one")
    parser.add_argument("--config", choices=CONFIGS, default="pocket", help="the model it must hold (pocket)")
    parser.add_argument("--device", default="CPU", help="CPU, FPGA, HETERO:FPGA,CPU, ... (CPU)")
    add_generation(parser)
    parser.add_argument("--async", dest="asynchronous", action="store_true", help="asynchronous requests")
    parser.add_argument("--precision", default="f32", help="to compute in: f32, bf16, or device for its own (f32)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (1)")
    arguments = parser.parse_args()

    encode_prompt(arguments.prompt)  # before the model is compiled, which takes longer
    _, card = load_ir(arguments.model, CONFIGS[arguments.config])
    if card.kind not in STEPS:
        raise BookError(f"{arguments.model} is a {card.kind} IR, which cannot step; convert a step graph")
    precision = None if arguments.precision == "device" else arguments.precision
    model = STEPS[card.kind](arguments.model, arguments.device, precision, arguments.threads, arguments.asynchronous)

    start = time.perf_counter()
    written = continued(model, arguments)
    rate = (len(arguments.prompt) + arguments.length - 1) / (time.perf_counter() - start)
    print(written)
    print(
        f"[{arguments.device}, {card.precision}, {card.kind}: {rate:.0f} tokens/s, the prompt's counted]",
        file=sys.stderr,
    )


if __name__ == "__main__":
    run_command(main)
