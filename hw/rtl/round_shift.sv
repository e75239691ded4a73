// Division by a power of two, rounded to nearest, halves up, and saturated:
// value_o = clip((value_i + 2^(shift_i - 1)) >> shift_i), for shift_i from 1 up. Combinational.
//
// Half of the divisor is not added to the wide value: the shift stops a bit early, and 1 is added
// to what is left, of OUT_W bits and that one. {value, 0} >> s is value >> (s - 1), without a
// subtraction in front.

module round_shift #(
  parameter int unsigned IN_W    = 40,
  parameter int unsigned OUT_W   = 8,
  parameter int unsigned SHIFT_W = 6
) (
  input  logic signed [IN_W-1:0]    value_i,
  input  logic        [SHIFT_W-1:0] shift_i,
  output logic signed [OUT_W-1:0]   value_o
);
  // The upper of these bits say only whether the rest fits, so that there are always some.
  localparam int unsigned WideW = ((IN_W > OUT_W) ? IN_W : OUT_W) + 2;

  logic signed [WideW-1:0] doubled, halves; // in units of 1/2 of the result
  logic        [OUT_W:0]   rounded;         // likewise
  logic                    negative, outside;

  assign doubled  = WideW'(value_i) <<< 1;
  assign halves   = doubled >>> shift_i;
  assign rounded  = halves[OUT_W:0] + 1'b1;
  assign negative = halves[WideW-1];

  // Too large to begin with, or by the rounding; what is just too small is rounded to the smallest.
  assign outside = (halves[WideW-1:OUT_W] != {(WideW - OUT_W) {negative}}) ||
                   (!negative && rounded[OUT_W]);
  assign value_o = outside ? {negative, {(OUT_W - 1) {~negative}}} : rounded[OUT_W:1];
endmodule
