// A product of unsigned numbers, without a register: for DSPs, or in LUTs alone.
//
// In LUTs a row of adders takes one LUT a bit: an addend and the AND that gates the other share the
// LUT in front of the carry chain. That is half of what a synthesiser makes of `*` where it may use
// no DSP. It is slow, one row behind the other: good for a comparison of areas, not of clocks.

module multiply #(
  parameter int unsigned A_W = 24,
  parameter int unsigned B_W = 24,  // rows
  parameter bit          DSP = 1'b1
) (
  input  logic [A_W-1:0]     a_i,
  input  logic [B_W-1:0]     b_i,
  output logic [A_W+B_W-1:0] product_o
);
  if (DSP) begin : g_dsp
    assign product_o = a_i * b_i;
  end else begin : g_lut
    // Sums are kept inverted, as -1 - sum, and rows taken away from them: only the first operand of
    // a subtraction goes to the carry chain directly, whereas an addition's may be exchanged.
    logic [A_W:0] left[B_W];
    assign left[0] = ~{1'b0, a_i & {A_W{b_i[0]}}};
    for (genvar i = 1; i < B_W; i++) begin : g_row
      assign left[i] = {1'b1, left[i-1][A_W:1]} - {1'b0, a_i & {A_W{b_i[i]}}};
    end
    for (genvar i = 0; i < B_W; i++) begin : g_low
      assign product_o[i] = ~left[i][0]; // a row's lowest bit is final, the others go on
    end
    assign product_o[A_W+B_W-1:B_W] = ~left[B_W-1][A_W:1];
  end
endmodule
