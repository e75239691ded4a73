"""The thin library behind the chapters: one idea per file, each read from top to bottom.

Reading order: ``gpt`` (the model), ``text`` and ``corpus`` (its data), ``stories`` (the built-in
corpus), ``checkpoint`` and ``train``, ``evaluate``, ``results`` (the contract every figure on
every page passes through), ``book`` (how the pages are executed, compared and collected). Then the
model on its way out: ``ptq``, ``prune``, ``qat``, ``export``, ``ladder``; what an accelerator takes of it:
``partition``, ``segments``, ``offload``; the routes, none of which imports another: ``vitis``, ``intel``, ``cpu``,
``sycl``, ``acap``, ``silicon``; and ``bench`` and ``comparison``, which set them side by side.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # the checkout: data/, chapters/ and _build/ live here
