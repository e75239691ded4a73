// Eq. (13) of the EQ-ViT paper as printed: x from 3 on, 1 for 2, and 0 for every other code.
//
// One code a clock, one clock late, valid and ready on both sides, as gelu_table. Reset is
// synchronous, active low, and touches the valid bit only.

module gelu_printed (
  input  logic              clk_i,
  input  logic              rst_ni,

  input  logic              valid_i,
  output logic              ready_o,
  input  logic signed [7:0] code_i,

  output logic              valid_o,
  input  logic              ready_i,
  output logic [7:0]        code_o
);
  logic       above_3;
  logic [7:0] code;

  assign ready_o = ready_i | ~valid_o;

  // No comparator: any of bits 2 to 6 means at least 4, and then the code passes; below, 3 keeps
  // both of its bits and 2 becomes 1. A negative code clears the register, without a LUT a bit.
  assign above_3 = |code_i[6:2];
  assign code    = {1'b0, code_i[6:2], code_i[1] & (above_3 | code_i[0]),
                    above_3 ? code_i[0] : code_i[1]};

  always_ff @(posedge clk_i) begin
    if (!rst_ni) valid_o <= 1'b0;
    else if (ready_o) valid_o <= valid_i;
  end

  always_ff @(posedge clk_i) begin
    if (ready_o) code_o <= code_i[7] ? '0 : code;
  end
endmodule
