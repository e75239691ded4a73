"""SystemVerilog of ``hw/rtl``, simulated and synthesised with open tools that come from pip."""
