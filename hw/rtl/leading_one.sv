// The leading one of a number above 0, and what follows it: value_i is 2^exponent_o times 1 and
// FRACTION bits behind the point, the rest cut off; bits that value_i has not are 0. Combinational.
//
// The upper half is looked at; if it is all zeros, the lower half takes its place; and so on with
// halves of halves. Each step yields one bit of the exponent, and at the end the leading one is on
// top. For value_i = 0 both results are 0.

module leading_one #(
  parameter int unsigned IN_W     = 16, // 2 or more
  parameter int unsigned FRACTION = 8   // 1 or more
) (
  input  logic [IN_W-1:0]         value_i,
  output logic [$clog2(IN_W)-1:0] exponent_o,
  output logic [FRACTION-1:0]     fraction_o
);
  localparam int unsigned Steps = $clog2(IN_W);
  localparam int unsigned FullW = 2 ** Steps;

  logic [FullW-1:0] top;

  always_comb begin
    top = FullW'(value_i);
    for (int unsigned k = Steps; k > 0; k--) begin
      exponent_o[k-1] = |(top >> (FullW - 2 ** (k - 1)));
      if (!exponent_o[k-1]) top = top << 2 ** (k - 1);
    end
  end

  // What is below the top bit, and zeros in case that is too short, without its own lower end.
  assign fraction_o = FRACTION'({top[FullW-2:0], {FRACTION{1'b0}}} >> (FullW - 1));
endmodule
