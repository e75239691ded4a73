"""The Intel route: OpenVINO on the processor at hand, and on an FPGA where Altera's FPGA AI Suite is installed.

Section 5 of the report. Reading order: ``convert`` (from ONNX or PyTorch to an IR, and back from its files),
``quantise`` (INT8 by NNCF), ``stateful`` (the KV cache moves into the model), ``devices`` (which targets there are),
``run`` (token by token, or whole windows), ``measure`` (OpenVINO's own benchmark) and ``suite`` (what the FPGA takes,
by its handbook).
"""
