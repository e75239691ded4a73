// One column: the multipliers that stand behind one another in the groups, and what they add up.
//
// Both dataflows share operand, multiplier and product. In the first the operand changes every
// clock, and the product goes to the accumulator of its group, whose sums over the groups end in
// `hold_o`, where they wait for the requantisers while the next pass accumulates. In the second the
// operand is loaded once a pass, and the product leaves for the adder tree.
//
// Registers before and after the multiplication, and the addition after it: the shape of a DSP
// slice of any vendor, whose own registers these become. Nothing is reset, since only clocks that
// carry something of use move a register.

module column #(
  parameter int unsigned GROUPS = 1
) (
  input  logic                 clk_i,

  // The operand: one for each group, or one byte for all of them.
  input  logic                 operand_load_i,
  input  logic                 operand_staged_i,
  input  logic [9*GROUPS-1:0]  operand_i,
  input  logic [7:0]           staged_i,

  // A clock later what it is multiplied by: weight, key or value.
  input  logic                 multiply_i,
  input  logic [8*GROUPS-1:0]  factor_i,

  // A clock after that the sum, and when that is whole, its way to hold_o.
  input  logic                 accumulate_i,
  input  logic                 first_i,
  input  logic                 capture_i,

  // Once these have left, another column's results come here.
  input  logic                 next_i,
  input  logic [23:0]          next_hold_i,

  output logic [32*GROUPS-1:0] product_o,
  output logic [23:0]          hold_o
);
  logic [24*GROUPS-1:0] sums;

  for (genvar g = 0; g < GROUPS; g++) begin : g_lane
    logic signed [8:0]  operand_q;
    logic signed [7:0]  factor;
    logic signed [31:0] product_q; // 17 bits, and copies of the sign that cost a simulator nothing
    logic signed [23:0] sum_q;

    assign factor = factor_i[8*g +: 8];

    always_ff @(posedge clk_i) begin
      if (operand_load_i) begin
        operand_q <= operand_staged_i ? {staged_i[7], staged_i} : operand_i[9*g +: 9];
      end
      if (multiply_i) product_q <= 32'(operand_q) * 32'(factor);
      if (accumulate_i) begin
        if (first_i) sum_q <= product_q[23:0];
        else sum_q <= sum_q + product_q[23:0];
      end
    end

    assign product_o[32*g +: 32] = product_q;
    assign sums[24*g +: 24]      = sum_q;
  end

  // The few groups are added in one clock.
  logic [23:0] total;
  always_comb begin
    total = sums[23:0];
    for (int unsigned g = 1; g < GROUPS; g++) total = total + sums[24*g +: 24];
  end

  always_ff @(posedge clk_i) begin
    if (capture_i) hold_o <= total;
    else if (next_i) hold_o <= next_hold_i;
  end
endmodule
