// GELU between int8 codes and 8-bit codes: all of it is a table of 256 entries.
//
// TABLE packs the entries, that of code q in bits 8 (q + 128) and up, so that a table needs no file
// at simulation or synthesis and two instances may have different ones. The default is GELU from
// int8 codes over -4..4 to uint8 codes over -0.17..4.
//
// One code a clock, one clock late, valid and ready on both sides. A constant that is indexed is
// logic to a synthesiser, not memory: eight functions of eight inputs, each at most four LUT6 and
// the multiplexers that join them. A block RAM would spend 18 kbit on 2.
//
// Reset is synchronous, active low, and touches the valid bit only.

module gelu_table #(
  parameter logic [2047:0] TABLE = {
    256'hfffdfbf9f7f5f3f1efedebe9e7e6e4e2e0dedcdad8d6d4d2d0cecccac9c7c5c3,
    256'hc1bfbdbbb9b7b5b3b1afadaba9a7a5a3a19f9d9b99979593918f8d8b89878583,
    256'h807e7c7a78767472706d6b69676563605e5c5a585653514f4d4b49464442403e,
    256'h3c3a38363432302e2c2a28262523211f1e1c1a191716151312110f0e0d0c0b0a,
    256'h0908070706050404030302020101010100000000000000000000000000000000,
    256'h0101010101020202020203030303040404040505050506060606060707070707,
    256'h07080808080808080809090909090909090909090909090a0a0a0a0a0a0a0a0a,
    256'h0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a
  }
) (
  input  logic       clk_i,
  input  logic       rst_ni,

  input  logic       valid_i,
  output logic       ready_o,
  input  logic [7:0] code_i,

  output logic       valid_o,
  input  logic       ready_i,
  output logic [7:0] code_o
);
  assign ready_o = ready_i | ~valid_o;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) valid_o <= 1'b0;
    else if (ready_o) valid_o <= valid_i;
  end

  // Two's complement to 0..255: the sign bit inverted.
  always_ff @(posedge clk_i) begin
    if (ready_o) code_o <= TABLE[{~code_i[7], code_i[6:0], 3'b000} +: 8];
  end
endmodule
