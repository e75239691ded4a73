"""From ONNX or PyTorch to OpenVINO's IR, and back from its files.

An IR is a pair, ``.xml`` (the graph) and ``.bin`` (the constants), and nothing in it says that the two belong
together, or which model they hold. So each pair gets a card, ``.json``, with the hashes of both and the model's
configuration, and ``load_ir`` reads no pair without it.

The report's ``mo --data_type FP16`` is gone: its work is done by ``ovc`` (see ``hw/openvino/convert.sh``), or by
``openvino.convert_model`` here. Both store FP16 unless told otherwise.

    python -m lib.intel.convert out/pocket.xml --config pocket --source pocket.onnx    (a card for a pair made by ovc)
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import openvino as ov
import torch.nn as nn

from lib.errors import BookError, run_command
from lib.export import INPUTS, OUTPUTS, load_onnx, random_tokens
from lib.files import read_json, sha256, write_json
from lib.gpt import CONFIGS, GPTConfig
from lib.ptq.quiet import quiet

KINDS = {kind: (set(INPUTS[kind]), set(OUTPUTS[kind])) for kind in INPUTS}
KINDS["stateful"] = ({"token", "position"}, {"logits"})  # a step graph whose cache is inside: see lib.intel.stateful


# ---- Converting. ----


def from_onnx(path: str | os.PathLike[str], config: GPTConfig) -> ov.Model:
    """Convert a file of ``lib.export``, of FP32 or in QDQ form; BookError as ``load_onnx``."""
    load_onnx(path, config)
    return ov.convert_model(path)


def from_torch(model: nn.Module, batch: int = 1) -> ov.Model:
    """Convert the full pass of ``model`` over windows (batch, block), without ONNX in between."""
    shape = (batch, model.config.block)
    with quiet():
        converted = ov.convert_model(model, example_input=random_tokens(shape, model.config.vocab), input=list(shape))
    converted.inputs[0].get_tensor().set_names({"tokens"})
    converted.outputs[0].get_tensor().set_names({"logits"})
    return converted


# ---- Files. ----


@dataclass(frozen=True)
class Card:
    """What a pair of files holds: ``kind`` is one of ``KINDS``, ``precision`` that of the stored weights."""

    kind: str
    config: GPTConfig
    precision: str  # fp32, fp16 or int8
    source: str
    openvino: str
    xml_sha256: str
    bin_sha256: str


def save_ir(
    model: ov.Model, path: str | os.PathLike[str], config: GPTConfig, source: str, compress_to_fp16: bool = False
) -> Path:
    """Write ``model`` as ``path`` (.xml), its .bin and its card; floating-point weights in FP32 unless compressed.

    The card comes last: whatever interrupts the writing, ``load_ir`` takes the old three files or the new ones, and
    refuses a mixture. Raises BookError for a model that is not of ``config``.
    """
    path = _xml(path)
    model_kind(model, config, str(path))
    _check_place(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent) as folder:
        scratch = Path(folder) / path.name
        ov.save_model(model, scratch, compress_to_fp16=compress_to_fp16)
        for suffix in (".bin", ".xml"):
            scratch.with_suffix(suffix).replace(path.with_suffix(suffix))
    write_card(path, config, source)
    return path


def write_card(path: str | os.PathLike[str], config: GPTConfig, source: str) -> Card:
    """Write the card of a pair that is there already; BookError if it is not of ``config``."""
    path = _pair(path)
    model = _read(path)
    _check_place(path)
    card = Card(
        kind=model_kind(model, config, str(path)),
        config=dataclasses.replace(config, dropout=0.0),
        precision=stored_precision(model),
        source=source,
        openvino=ov.get_version(),
        xml_sha256=sha256(path),
        bin_sha256=sha256(path.with_suffix(".bin")),
    )
    write_json(path.with_suffix(".json"), dataclasses.asdict(card))
    return card


def _check_place(path: Path) -> None:
    """Raise BookError if another JSON file, a checkpoint's card say, lies where the card of an IR is to go."""
    place = path.with_suffix(".json")
    if not place.exists():
        return
    found = read_json(place, "the IR's card")
    if not isinstance(found, dict) or "xml_sha256" not in found:
        raise BookError(f"{place} is no card of an IR and would be lost; give the IR another name")


def load_ir(path: str | os.PathLike[str], config: GPTConfig | None = None) -> tuple[ov.Model, Card]:
    """Read a pair and its card; ``config``, when given, is the model it must hold.

    Raises BookError for a file of the three that is missing or damaged, an .xml or a .bin that is not the card's, and
    another model.
    """
    path = _pair(path)
    fields = read_json(path.with_suffix(".json"), "the IR's card")
    try:
        card = Card(**{**fields, "config": GPTConfig(**fields["config"])})
    except (KeyError, TypeError):
        raise BookError(f"{path.with_suffix('.json')} is no card of an IR; convert the model again") from None
    for suffix, expected in ((".xml", card.xml_sha256), (".bin", card.bin_sha256)):
        if sha256(path.with_suffix(suffix)) != expected:
            raise BookError(
                f"{path.with_suffix(suffix)} is not the {suffix} that {path.with_suffix('.json').name} was written "
                "for: the files are damaged or of two conversions; convert the model again"
            )
    if config is not None and card.config != dataclasses.replace(config, dropout=0.0):
        raise BookError(f"{path} holds another model ({card.config}); expected {config}")
    return _read(path), card


def _xml(path: str | os.PathLike[str]) -> Path:
    if Path(path).suffix != ".xml":
        raise BookError(f"{path} does not end in .xml, which is how the graph of an IR is called; rename it")
    return Path(path)


def _pair(path: str | os.PathLike[str]) -> Path:
    path = _xml(path)
    for file, holds in ((path, "graph"), (path.with_suffix(".bin"), "constants")):
        if not file.is_file():
            raise BookError(f"the IR's {holds} {file} does not exist; check the path, or convert the model")
    return path


def _read(path: Path) -> ov.Model:
    try:
        return ov.Core().read_model(path)
    except RuntimeError:
        raise BookError(f"{path} is truncated or no IR; convert the model again") from None


# ---- What a model is. ----


def cache_shape(config: GPTConfig, batch: int) -> tuple[int, ...]:
    """Return the shape of a KV cache, (L, 2, B, H, S, D), as ``GPT.empty_cache`` has it."""
    return config.n_layer, 2, batch, config.n_head, config.block, config.n_embd // config.n_head


def model_kind(model: ov.Model, config: GPTConfig, name: str) -> str:
    """Return which of ``KINDS`` a model is; BookError, calling it ``name``, if its shapes are not of ``config``."""
    inputs, outputs = _shapes(model.inputs), _shapes(model.outputs)
    kind = next((k for k, (ins, outs) in KINDS.items() if ins == set(inputs) and outs == set(outputs)), None)
    if kind is None:
        raise BookError(
            f"{name} is of another model: it maps {', '.join(inputs)} to {', '.join(outputs)}, where this book's map "
            "tokens to logits; export it with lib.export"
        )
    if kind == "prefill":
        sizes = inputs["tokens"]
        fits = len(sizes) == 2 and sizes[1] <= config.block and outputs["logits"] == (*sizes, config.vocab)
    else:
        batch = (inputs["token"] or (0,))[0]
        cache = inputs["cache"] if kind == "step" else tuple(model.get_variables()[0].get_info().data_shape.to_shape())
        fits = cache == cache_shape(config, batch) and outputs["logits"] == (batch, config.vocab)
    if not fits or 0 in (size for shape in (*inputs.values(), *outputs.values()) for size in shape):
        raise BookError(f"{name} has the inputs {inputs} and is of another model than {config}; convert the right one")
    return kind


def _shapes(ports: list[ov.Output]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of inputs or outputs by name; a dimension that is not static counts 0."""
    return {
        min(port.names, default="an unnamed value"): tuple(
            size.get_length() if size.is_static else 0 for size in port.partial_shape
        )
        for port in ports
    }


def stored_precision(model: ov.Model) -> str:
    """Return what the weights are stored in: int8 if any constant is, else fp16 if any is, else fp32."""
    stored = {op.get_element_type().get_type_name() for op in model.get_ops() if op.get_type_name() == "Constant"}
    return "int8" if stored & {"i8", "u8"} else "fp16" if "f16" in stored else "fp32"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lib.intel.convert", description="Write the card of an IR that ovc made."
    )
    parser.add_argument("ir", type=Path, help="the .xml file")
    parser.add_argument("--config", choices=CONFIGS, default="pocket", help="the model it holds (pocket)")
    parser.add_argument("--source", required=True, help="what it was made from")
    arguments = parser.parse_args()
    card = write_card(arguments.ir, CONFIGS[arguments.config], arguments.source)
    print(f"{arguments.ir}: {card.kind}, {card.precision}")


if __name__ == "__main__":
    run_command(main)
