#!/usr/bin/env python3
"""Write text on a DPU, one token at a time: the report's host application (section 4.3).

    .venv/bin/python -m lib.vitis.build --out out/dpu
    .venv/bin/python hw/vitis_ai/run_vart.py --model out/dpu --prompt "Once upon a time" --length 200

On a board with AMD's xir and vart the DPU's pieces run on the DPU; elsewhere on the CPU, through a stand-in that
keeps VART's rules. ``lib.vitis.host`` has the six steps of the report: deserialise, find the child subgraphs, make
runners, allocate buffers, execute_async and wait; ``lib.gpt.generate`` samples, as on every route.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs from any folder

from lib.errors import BookError, run_command  # noqa: E402


def main() -> None:
    try:
        from lib.program import add_generation, continued
        from lib.text import encode_prompt
        from lib.vitis.host import DPUStep
    except ImportError as error:
        raise BookError(
            f"a package is missing ({error}); run this with the book's .venv/bin/python, or pip install it"
        ) from None
    parser = argparse.ArgumentParser(prog="run_vart.py", description="Write text on a DPU, or on its stand-in.")
    parser.add_argument("--model", type=Path, required=True, help="folder of pieces, from python -m lib.vitis.build")
    parser.add_argument("--runner", default="auto", help="auto, vart (insist on the DPU) or cpu (the stand-in)")
    add_generation(parser)
    given = parser.parse_args()

    encode_prompt(given.prompt)  # before the model is opened, which takes longer
    model = DPUStep(given.model, given.runner, threads=1)
    print(continued(model, given))
    cpu, dpu = (1e3 * model.seconds[device] / max(1, model.steps) for device in ("CPU", "DPU"))
    parts = f"each {cpu:.2f} ms on the CPU, {dpu:.2f} ms for the DPU with its {2 * model.subgraphs} crossings"
    print(f"[{model.runtime}: {model.steps} steps, {parts}]", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
