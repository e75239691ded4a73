"""From a solved mapping and an integer model to the sources of a Versal design.

``generate`` writes the AI Engines' kernels with their weights and the graph that joins them, the kernels in
programmable logic, who is connected to whom, the program of the host, and a Makefile that hands them to AMD's tools.
Everything but the host's program and the tools' own work also runs on any CPU: see ``lib.acap.csim``. Templates lie in
``hw/acap``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Mapping as Dict

import jinja2
import numpy as np

from lib import ROOT
from lib.acap import constants
from lib.acap.design import WORD, Design, Engine, Kernel, Unit
from lib.acap.integer import IntegerViT
from lib.acap.mapping import Mapping
from lib.errors import BookError
from lib.files import atomic_write, read_json, write_json

TEMPLATES = ROOT / "hw" / "acap"
MANIFEST = "manifest.json"
MAKER = "lib.acap.codegen"
PLATFORM = "xilinx_vck190_base_202410_1"

Placement = Dict[str, tuple[int, int]]


def generate(
    mapping: Mapping,
    model: IntegerViT,
    out: Path,
    placement: Placement | None = None,
    images: np.ndarray | None = None,
) -> list[Path]:
    """Write the sources of a design into the folder ``out`` and return their paths.

    ``placement`` names the tile of a kernel, (column, row), for as many of ``Design.units[...].engines`` as it likes.
    With ``images``, uint8 (N, channels, side, side), whole batches of them, the host's program gets them and their
    logits to compare with. A folder with an earlier design is brought up to date, files that did not change are left
    alone.
    Raises BookError if model, mapping and images do not belong together, if something does not fit, or if the folder
    holds something else.
    """
    out = Path(out)
    design = Design(mapping)
    _check_model(design, model)
    files = _sources(design, model, placement or {})
    if images is not None:
        files |= _golden(design, model, images)
    old = old_files(out)
    for name, content in files.items():
        _write_if_changed(out / name, content)
    for name in old - set(files):
        (out / name).unlink(missing_ok=True)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    write_json(out / MANIFEST, {"made by": MAKER, "files": digests})
    return [out / name for name in files]


def old_files(out: Path) -> set[str]:
    """Return the names of what an earlier run wrote to ``out``; BookError if the folder holds something else."""
    if not out.exists() or not any(out.iterdir()):
        return set()
    try:
        manifest = read_json(out / MANIFEST, "the manifest")
        if manifest["made by"] == MAKER:
            return set(manifest["files"])
    except (BookError, KeyError, TypeError):
        pass
    raise BookError(f"{out} holds something else than a generated design; name an empty folder")


def _write_if_changed(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        with atomic_write(path) as file:
            file.write(content)


def _check_model(design: Design, model: IntegerViT) -> None:
    config, blocks = design.config, model.blocks
    expected = {
        "blocks": (config.depth, len(blocks)),
        "heads": (config.heads, blocks[0].heads if blocks else 0),
        "patch": (config.patch, model.patch),
        "stem": ((config.dim, config.patch**2 * config.channels), model.stem.weight.shape),
        "positions": ((config.patches, config.dim), model.stem.bias.shape),
        "qkv": ((3 * config.dim, config.dim), blocks[0].qkv.weight.shape if blocks else ()),
        "feed-forward": ((config.mlp_ratio * config.dim, config.dim), blocks[0].up.weight.shape if blocks else ()),
        "head": ((config.classes, config.dim), model.head.weight.shape),
    }
    for what, (planned, found) in expected.items():
        if planned != found:
            raise BookError(f"the mapping is for a model whose {what} is {planned}, not {found}; map this one anew")
    if len({(block.fraction, block.attention_bits) for block in blocks}) > 1 or blocks[0].attention_bits > 4:
        raise BookError("the blocks' softmax differ, or have codes of more than 4 bits; quantise by EQ-ViT's recipe")


# ---- Rendering. ----


def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader([TEMPLATES, TEMPLATES / "aie", TEMPLATES / "pl"])
    return jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)


def _sources(design: Design, model: IntegerViT, placement: Placement) -> dict[str, bytes]:
    """Return every file of a design, by its path in the folder."""
    unknown = set(placement) - {engine.name for unit in design.units.values() for engine in unit.engines}
    if unknown:
        raise BookError(f"the placement names {min(unknown)}, which is no kernel of this design; place it again")
    env = _environment()
    files: dict[str, str | bytes] = {}

    def render(template: str, name: str, **values: Any) -> None:
        files[name] = env.get_template(template).render(**values)

    shape = {"batch": design.batch, "depth": design.config.depth, "attention_bits": model.blocks[0].attention_bits}
    files["aie/mm.h"] = (TEMPLATES / "aie" / "mm.h").read_text()
    render("aie/design.h.j2", "aie/design.h", **shape)
    for unit in design.units.values():
        _unit_sources(render, files, unit, model, placement)
    render("aie/graph.h.j2", "aie/graph.h", units=design.units.values())
    render("aie/graph.cpp.j2", "aie/graph.cpp")
    render("pl/words.h.j2", "pl/words.h", lanes=design.lanes)
    for kernel in design.kernels:
        header, values = kernel_values(kernel, design, model)
        if header:
            files[f"pl/constants/{kernel.name}.h"] = f"// Numbers of {kernel.name}. Generated.\n{header}"
        render(f"pl/{kernel.template}.cpp.j2", f"pl/{kernel.name}.cpp", kernel=kernel, **values)
    for kernel in design.kernels:
        if kernel.template == "feed":
            words = constants.feed_words(model, design.units[kernel.unit])
            files[f"host/{kernel.unit}_weights.bin"] = words.tobytes()
    render("system.cfg.j2", "system.cfg", design=design)
    render("host/host.cpp.j2", "host/host.cpp", **_host_values(design))
    render("Makefile.j2", "Makefile", kernels=design.kernels, platform=PLATFORM, hz=design.pl_hz)
    for path in sorted((TEMPLATES / "standin").rglob("*.h*")):
        files[str(path.relative_to(TEMPLATES))] = path.read_text()
    render("csim/csim.cpp.j2", "csim/csim.cpp", **_csim_values(design))
    return {name: content.encode() if isinstance(content, str) else content for name, content in files.items()}


ARGUMENTS = {  # of an engine's function, by what it has
    "lhs": "adf::input_async_buffer<int8>& lhs",
    "rhs": "adf::input_buffer<int8>& rhs",
    "before": "input_cascade<acc48>* before",
    "after": "output_cascade<acc48>* after",
}


def _arguments(unit: Unit, role: str) -> str:
    has = ["lhs"] + ["rhs"] * unit.rhs_streams + ["before"] * (role in ("middle", "last"))
    last = f"adf::output_async_buffer<{'int32' if unit.wide else 'int8'}>& out"
    return ", ".join([ARGUMENTS[name] for name in has] + [last if role in ("only", "last") else ARGUMENTS["after"]])


def _unit_sources(render: Any, files: dict, unit: Unit, model: IntegerViT, placement: Placement) -> None:
    shifts = _unit_constants(files, unit, model)
    roles = {engine.role for engine in unit.engines}
    arguments = {role: _arguments(unit, role) for role in roles}
    render("aie/unit.h.j2", f"aie/{unit.name}.h", unit=unit, shifts=shifts, arguments=arguments)
    index = {engine.name: i for i, engine in enumerate(unit.engines)}
    render("aie/unit_graph.h.j2", f"aie/{unit.name}_graph.h", unit=unit, placement=placement, index=index)
    for engine in unit.engines:
        values = _engine_values(unit, engine)
        render("aie/engine.cc.j2", f"aie/{engine.name}.cc", unit=unit, engine=engine, **values)


def _engine_values(unit: Unit, engine: Engine) -> dict[str, Any]:
    ends = engine.role in ("only", "last")
    held = not unit.rhs_streams
    weights = f"{unit.name}_b{engine.b}_c{engine.c}::weights[{0 if unit.wide else 'block'}]"
    return {
        "ends": ends,
        "numbered": not unit.wide and (held or ends),
        "arguments": _arguments(unit, engine.role),
        "scale": f"c{engine.c}" if unit.sets else "scale",
        "right": weights if held else "rhs.data()",
    }


def _namespace(name: str, guard: str, body: str) -> str:
    return (
        f"// Numbers of {name}. Generated.\n#ifndef {guard}_H\n#define {guard}_H\n\n#include <adf.h>\n\n"
        f"namespace {name} {{\n{body}}}  // namespace {name}\n\n#endif\n"
    )


def _unit_constants(files: dict, unit: Unit, model: IntegerViT) -> list[int]:
    """Write the headers with a unit's weights and what its sums are rescaled with; return the blocks' shifts."""

    def header(part: str, body: str) -> None:
        name = f"{unit.name}_{part}"
        files[f"aie/weights/{name}.h"] = _namespace(name, name.upper(), body)

    if not unit.rhs_streams:
        held = constants.weights(model, unit)  # (sets, B, C, k n)
        for b in range(unit.tiling.B):
            for c in range(unit.tiling.C):
                text = constants.array("weights", held[:, b, c], "int8", "alignas(32) static const")
                header(f"b{b}_c{c}", text)
    if unit.wide:
        return []
    if unit.sets:
        found = constants.linears(model, unit.name)
        bias = constants.column_parts(np.stack([bias for _, bias, _ in found]), unit)
        multiplier = constants.column_parts(np.stack([rescale.multiplier for _, _, rescale in found]), unit)
        for c in range(unit.tiling.C):
            header(f"c{c}", _rescale(bias[c], multiplier[c]))
        return [constants.check_shift(rescale) for _, _, rescale in found]
    found = [block.to_scores if unit.name == "qk" else block.to_context for block in model.blocks]
    multiplier = np.repeat(np.array([int(rescale.multiplier) for rescale in found])[:, None], 4, axis=1)
    header("scale", _rescale(np.zeros_like(multiplier), multiplier))
    return [constants.check_shift(rescale) for rescale in found]


def _rescale(bias: np.ndarray, multiplier: np.ndarray) -> str:
    arrays = (("bias", bias), ("multiplier", multiplier))
    return "".join(constants.array(name, values, "int32", "alignas(32) static const") for name, values in arrays)


def kernel_values(kernel: Kernel, design: Design, model: IntegerViT) -> tuple[str, dict[str, Any]]:
    """Return the header with a PL kernel's numbers ("" if it has none) and what its template is filled with."""
    config, blocks, units = design.config, model.blocks, design.units
    shape = {"batch": design.batch, "depth": config.depth, "tokens": design.tokens, "width": config.dim}
    shape |= {"heads": config.heads, "patches": config.patches, "lanes": design.lanes, **kernel.settings}
    if kernel.template == "norm":
        norms = [model.norm] if kernel.name == "norm" else [getattr(block, kernel.name) for block in blocks]
        header, widths = constants.norm_constants(norms)
        return header, shape | widths
    if kernel.template == "add":
        header, widths = constants.add_constants(blocks, kernel.name)
        return header, shape | widths
    if kernel.template == "embed":
        return constants.embed_constants(model), shape | {"sum_rows": units["patch"].rows}
    if kernel.template == "gelu":
        return constants.gelu_constants(blocks), shape | {
            "words": design.tokens * design.row_words(units["up"].columns)
        }
    if kernel.template == "logits":
        sizes = {"classes": config.classes, "words": design.row_words(config.classes, 4), "rows": units["head"].rows}
        return constants.logits_constants(model), shape | sizes
    if kernel.template == "turn":
        tail = design.image_words // design.tokens * units["head"].rows
        return "", shape | {"image_words": design.image_words, "tail_words": tail}
    if kernel.template == "heads":
        return "", shape | {"qk": units["qk"], "av": units["av"]}
    if kernel.template == "softmax":
        return "", {
            "heads": config.heads,
            "rows": design.tokens,
            "columns": config.tokens,
            "words": design.row_words(design.tokens),
            "bits": blocks[0].attention_bits,
            "fraction": blocks[0].fraction,
            "sum_bits": (config.tokens << 15).bit_length(),
        }
    return "", shape


def _host_values(design: Design) -> dict[str, Any]:
    config = design.config
    return {
        "batch": design.batch,
        "depth": config.depth,
        "image_bytes": config.patches * design.row_words(config.patch**2 * config.channels) * design.lanes,
        "logit_bytes": design.row_words(config.classes, 4) * design.lanes,
        "classes": config.classes,
        "kernels": design.kernels,
        "passes": kernel_passes(design),
    }


def _golden(design: Design, model: IntegerViT, images: np.ndarray) -> dict[str, bytes]:
    """Return the files that the host's program takes: images cut into patches, and logits, int32 in whole words."""
    design.check_batches(images)
    logits = model(images)
    padded = np.zeros((len(images), design.row_words(design.config.classes, 4) * design.lanes // 4), np.int32)
    padded[:, : design.config.classes] = logits
    return {"host/images.bin": constants.image_words(images, design).tobytes(), "host/golden.bin": padded.tobytes()}


def kernel_passes(design: Design) -> dict[str, str]:
    """Return how many passes each PL kernel makes of a batch, as an expression of BATCH and DEPTH."""
    passes = {kernel.name: "BATCH" for kernel in (*design.stem, *design.tail)}
    passes |= {kernel.name: "BATCH * DEPTH" for kernel in design.block}
    return passes | {"turn": "BATCH * (DEPTH + 1)"}


def _csim_values(design: Design) -> dict[str, Any]:
    return {
        "design": design,
        "batch": design.batch,
        "depth": design.config.depth,
        "logit_words": design.row_words(design.config.classes, 4) * design.lanes // WORD,
        "engines": [engine.name for unit in design.units.values() for engine in unit.engines],
    }
