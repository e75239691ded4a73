"""The AMD Vitis AI route: the DPU of a ZCU104, what it takes, and what its host does.

Reading order: ``arch`` and ``dpu`` (which DPU, and its figures), ``operators`` (what it takes), ``rewrite`` and
``activation`` (the model made to suit it), ``quantise``, ``eightbit`` and ``build`` (eight bits, and the pieces as
files), ``host`` (running them), ``vart`` (the stand-in for AMD's runtime).
"""
