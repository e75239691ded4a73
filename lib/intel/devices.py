"""Which targets OpenVINO can compile for here, and what is missing for the others.

The FPGA is a plugin of Altera's FPGA AI Suite, which the openvino package does not hold. The suite builds the plugin
(``libcoreDLARuntimePlugin.so``) with its runtime and lists it in a plugins file: one for boards, and
``plugins_emulation.xml`` for a bit-accurate software model that needs no board ("FPGA AI Suite IP Reference Manual",
2025.1, section 2.3). ``FPGA_AI_SUITE_PLUGINS`` names such a file; it goes to ``ov.Core`` as it is. The plugin needs an
architecture file too, "an OpenVINO configuration key" ("PCIe-based Design Example User Guide", 2024.1, section 6.3.1);
a plugins file may carry it among the plugin's properties. And the plugin is built for one version of OpenVINO, 2024.6
for suite 2025.1 ("IP Reference Manual", appendix B): there, install that one.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import openvino as ov
import torch

from lib.errors import BookError
from lib.intel.signals import own_signal_stack

PLUGINS = "FPGA_AI_SUITE_PLUGINS"
DEVICES = {  # what OpenVINO needs beside itself
    "CPU": "a processor that OpenVINO supports",
    "GPU": "an Intel GPU and its driver",
    "NPU": "an Intel NPU and its driver",
    "FPGA": f"Altera's FPGA AI Suite with its runtime plugin coreDLARuntimePlugin, and set {PLUGINS} to its "
    "plugins.xml (plugins_emulation.xml needs no board)",
}
COMBINED = ("HETERO", "AUTO", "MULTI")  # each takes a list of devices after a colon; AUTO may do without
PRECISIONS = {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}  # hints, and the capability that each asks of a device


def open_core() -> ov.Core:
    """Return an OpenVINO core with the plugins of ``FPGA_AI_SUITE_PLUGINS`` too; BookError if that is no such file."""
    plugins = os.environ.get(PLUGINS)
    if not plugins:
        return ov.Core()
    if not Path(plugins).is_file():
        raise BookError(f"{PLUGINS} names {plugins}, which does not exist; set it to the suite's plugins.xml")
    try:
        return ov.Core(plugins)
    except RuntimeError:
        raise BookError(
            f"{PLUGINS} names {plugins}, which is no plugins file; set it to the suite's plugins.xml"
        ) from None


def check_device(name: str, core: ov.Core | None = None) -> str:
    """Return ``name`` if OpenVINO can compile for it here: a device of ``DEVICES``, or a combination of some.

    ``GPU.1`` is the second GPU. Raises BookError for a name that no target has, a combination without devices, and a
    device that is absent: the sentence lists those that exist, and what the absent one takes.
    """
    head, colon, rest = name.partition(":")
    members = rest.split(",") if colon else []
    if head in COMBINED:
        if not members and head != "AUTO":
            raise BookError(f"{name} combines devices and names none; write for example {head}:CPU")
    elif colon:
        raise BookError(f"the device {name!r} is unknown; a list of devices follows {', '.join(COMBINED)} only")
    else:
        members = [name]
    core = core or open_core()
    for member in members:
        _check_present(member, core)
    return name


def _check_present(device: str, core: ov.Core) -> None:
    family = device.partition(".")[0]
    if family not in DEVICES:
        raise BookError(
            f"the device {device!r} is unknown; choose one of {', '.join(DEVICES)}, or several with "
            f"{', '.join(f'{head}:' for head in COMBINED)}, as in HETERO:FPGA,CPU"
        )
    with own_signal_stack():
        available = core.available_devices
    if device in available or any(entry.startswith(f"{device}.") for entry in available):
        return
    if family == "FPGA" and os.environ.get(PLUGINS):  # a plugin need not list its boards
        return _check_loads(device, core)
    raise BookError(
        f"the device {device} is not on this machine, where OpenVINO finds {', '.join(available)}; choose one of "
        f"these, or install {DEVICES[family]}"
    )


def _check_loads(device: str, core: ov.Core) -> None:
    try:
        core.get_versions(device)
    except RuntimeError as error:
        raise BookError(
            f"the plugin that {os.environ[PLUGINS]} should name for {device} does not load ({last_line(error)}); build "
            f"the suite's runtime for this OpenVINO, {ov.get_version()}, or install the one that it was built for"
        ) from None


def last_line(error: Exception) -> str:
    """Return the last line of an OpenVINO error, which says what is wrong; those above say where."""
    return str(error).strip().splitlines()[-1]


def compile_options(device: str, precision: str | None, threads: int | None, core: ov.Core) -> dict[str, Any]:
    """Return the properties to compile for the lowest latency: one stream, so many threads, a precision to compute in.

    precision: ``f32``, ``bf16``, ``f16``, or None for what the device prefers, bfloat16 on many a CPU; threads None
    means at most two, as PyTorch is set. All of this is the CPU's, alone or in a combination; other devices keep their
    own. Raises BookError for a precision that the CPU cannot compute in, or threads below 1.
    """
    if device not in ("CPU", "AUTO") and "CPU" not in device.partition(":")[2].split(","):
        return {}
    if precision is not None and PRECISIONS.get(precision) not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise BookError(f"the CPU does not compute in {precision!r}; choose f32, or no precision at all")
    if threads is not None and threads < 1:
        raise BookError(f"{threads} threads cannot compute; give at least 1")
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads or min(2, torch.get_num_threads()),
    }
    if precision is not None:
        options["INFERENCE_PRECISION_HINT"] = precision
    return options if device == "CPU" else {"DEVICE_PROPERTIES": {"CPU": options}}


def placement(model: ov.Model, device: str, core: ov.Core | None = None) -> dict[str, str]:
    """Ask a device, or a combination, which operations of a model it takes: their names, each with its device.

    An operation that is missing from the answer has no place. BookError as ``check_device``.
    """
    core = core or open_core()
    return dict(core.query_model(model, check_device(device, core)))


def placed_types(model: ov.Model, device: str, core: ov.Core | None = None) -> Counter[tuple[str, str]]:
    """Count the operations of a model by (type, device); the device of those without a place is ``none``."""
    placed = placement(model, device, core)
    return Counter((op.get_type_name(), placed.get(op.get_friendly_name(), "none")) for op in model.get_ops())
