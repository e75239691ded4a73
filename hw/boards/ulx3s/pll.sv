// The ULX3S's 25 MHz become 100 MHz: what `ecppll -i 25 -o 100` gives for one output.
//
// The oscillator of the PLL runs at 25 MHz * CLKFB_DIV * CLKOP_DIV = 600 MHz, within its 400 to
// 800 MHz. CLKOP_CPHASE puts the output's edge on the input's.

module pll (
  input  logic clk_i,
  output logic clk_o,
  output logic locked_o
);
  logic unused_clkintfb, unused_clkos, unused_clkos2, unused_clkos3, unused_refclk, unused_intlock;

  (* FREQUENCY_PIN_CLKI = "25" *)
  (* FREQUENCY_PIN_CLKOP = "100" *)
  (* ICP_CURRENT = "12" *)
  (* LPF_RESISTOR = "8" *)
  (* MFG_ENABLE_FILTEROPAMP = "1" *)
  (* MFG_GMCREF_SEL = "2" *)
  EHXPLLL #(
    .PLLRST_ENA      ("DISABLED"),
    .INTFB_WAKE      ("DISABLED"),
    .STDBY_ENABLE    ("DISABLED"),
    .DPHASE_SOURCE   ("DISABLED"),
    .OUTDIVIDER_MUXA ("DIVA"),
    .OUTDIVIDER_MUXB ("DIVB"),
    .OUTDIVIDER_MUXC ("DIVC"),
    .OUTDIVIDER_MUXD ("DIVD"),
    .CLKI_DIV        (1),
    .CLKOP_ENABLE    ("ENABLED"),
    .CLKOP_DIV       (6),
    .CLKOP_CPHASE    (2),
    .CLKOP_FPHASE    (0),
    .FEEDBK_PATH     ("CLKOP"),
    .CLKFB_DIV       (4)
  ) u_pll (
    .CLKI        (clk_i),
    .CLKFB       (clk_o),
    .RST         (1'b0),
    .STDBY       (1'b0),
    .PHASESEL0   (1'b0),
    .PHASESEL1   (1'b0),
    .PHASEDIR    (1'b1),
    .PHASESTEP   (1'b1),
    .PHASELOADREG(1'b1),
    .PLLWAKESYNC (1'b0),
    .ENCLKOP     (1'b0),
    .ENCLKOS     (1'b0),
    .ENCLKOS2    (1'b0),
    .ENCLKOS3    (1'b0),
    .CLKOP       (clk_o),
    .CLKOS       (unused_clkos),
    .CLKOS2      (unused_clkos2),
    .CLKOS3      (unused_clkos3),
    .LOCK        (locked_o),
    .INTLOCK     (unused_intlock),
    .REFCLK      (unused_refclk),
    .CLKINTFB    (unused_clkintfb)
  );
endmodule
