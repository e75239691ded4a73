"""The KV cache inside the model: OpenVINO keeps it from one step to the next, and no caller carries it."""

from __future__ import annotations

import openvino as ov
from openvino.passes import MakeStateful, Manager

from lib.errors import BookError


def make_stateful(step: ov.Model) -> ov.Model:
    """Return a copy of a step graph that maps token (B,) and position () to logits (B, V), its cache a state.

    The state has the shape of the step graph's cache and starts as zeros, and again after a request's
    ``reset_state``. Raises BookError for a model without the step graph's cache.
    """
    names = {name for port in (*step.inputs, *step.outputs) for name in port.names}
    if not {"cache", "new_cache"} <= names:
        raise BookError("the model has no cache to keep inside; convert a step graph, made by lib.export.export_step")
    stateful = step.clone()
    manager = Manager()
    manager.register_pass(MakeStateful({"cache": "new_cache"}))
    manager.run_passes(stateful)
    return stateful
