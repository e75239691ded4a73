// From a sum of products back to few bits:
// value_o = clip(round((acc_i + bias_i) * multiplier_i / 2^shift_i)), halves rounded up.
//
// One result a clock, five clocks late: add, multiply, keep the product, shift, round and saturate.
// Without BIAS there is no addition, and it takes four. acc_i + bias_i must fit ACC_W bits;
// multiplier_i is unsigned; shift_i is 1 to 40.
//
// Nothing lies between the product's two registers: they are those of a DSP block, behind its
// multiplier and at its output. Where multipliers take 18 bits, SPLIT puts the addition of the
// products of acc_i's two halves there.
//
// Reset is synchronous, active low, and touches the valid bits only.

module requantise #(
  parameter int unsigned ACC_W = 24,
  parameter int unsigned OUT_W = 8,
  parameter bit          BIAS  = 1'b1,
  parameter bit          SPLIT = 1'b0 // two products, of multipliers that take 18 bits
) (
  input  logic                    clk_i,
  input  logic                    rst_ni,

  input  logic                    valid_i,
  output logic                    ready_o,
  input  logic signed [ACC_W-1:0] acc_i,
  input  logic signed [ACC_W-1:0] bias_i, // without BIAS not read
  input  logic        [15:0]      multiplier_i,
  input  logic        [5:0]       shift_i,

  output logic                    valid_o,
  input  logic                    ready_i,
  output logic signed [OUT_W-1:0] value_o
);
  localparam int unsigned Stages   = BIAS ? 5 : 4;
  localparam int unsigned ProductW = ACC_W + 16;

  // ---- Control: all stages step together, and stand still while a result waits. One that takes
  // over nothing valid stands still, too: an idle unit costs no power, nor a simulator's time. ----
  logic [Stages-1:0] valid_q, move;
  logic              step;

  assign valid_o = valid_q[Stages-1];
  assign step    = ready_i | ~valid_o;
  assign ready_o = step;
  assign move    = {valid_q[Stages-2:0], valid_i} & {Stages{step}};

  always_ff @(posedge clk_i) begin
    if (!rst_ni) valid_q <= '0;
    else if (step) valid_q <= {valid_q[Stages-2:0], valid_i};
  end

  // ---- Add. ----
  logic signed [ACC_W-1:0] sum;
  logic        [15:0]      multiplier;
  logic        [5:0]       shift;

  if (BIAS) begin : g_bias
    logic signed [ACC_W-1:0] sum_q;
    logic        [15:0]      multiplier_q;
    logic        [5:0]       shift_q;

    always_ff @(posedge clk_i) begin
      if (move[0]) begin
        sum_q        <= acc_i + bias_i;
        multiplier_q <= multiplier_i;
        shift_q      <= shift_i;
      end
    end
    assign sum        = sum_q;
    assign multiplier = multiplier_q;
    assign shift      = shift_q;
  end else begin : g_no_bias
    logic unused_bias;
    assign unused_bias = ^bias_i;
    assign sum         = acc_i;
    assign multiplier  = multiplier_i;
    assign shift       = shift_i;
  end

  // ---- Multiply. ----
  localparam int unsigned LowW = 17; // bits of acc_i in the lower product, which has no sign

  logic signed [ProductW-1:0] kept_q;
  logic        [5:0]          shift_product_q, shift_kept_q;

  always_ff @(posedge clk_i) begin
    if (move[Stages-4]) shift_product_q <= shift;
    if (move[Stages-3]) shift_kept_q <= shift_product_q;
  end

  if (SPLIT && ACC_W > LowW + 1) begin : g_halves
    logic signed [LowW+16:0]     low_q;
    logic signed [ACC_W-LowW+15:0] high_q;

    always_ff @(posedge clk_i) begin
      if (move[Stages-4]) begin
        low_q  <= $signed({1'b0, sum[LowW-1:0]}) * $signed({1'b0, multiplier});
        high_q <= $signed(sum[ACC_W-1:LowW]) * $signed({1'b0, multiplier});
      end
      if (move[Stages-3]) kept_q <= ProductW'(low_q) + (ProductW'(high_q) <<< LowW);
    end
  end else begin : g_whole
    logic signed [ProductW-1:0] product_q;

    always_ff @(posedge clk_i) begin
      if (move[Stages-4]) product_q <= sum * $signed({1'b0, multiplier});
      if (move[Stages-3]) kept_q <= product_q;
    end
  end

  // ---- Shift. ----
  //
  // In two parts, to keep both stages short: {kept, 0} by a multiple of 4 here, and by the 1 to 4
  // that are left where it is rounded. Of the bits above those that go on it matters only whether
  // one differs from the sign: the value is then out of range for good. That is asked of groups of
  // 4 bits, and the shift chooses among the answers, which is less than to shift the bits.
  localparam int unsigned CoarseW = OUT_W + 5;
  localparam int unsigned AboveW  = ProductW - (CoarseW - 3);
  localparam int unsigned Groups  = (AboveW + 3) / 4;

  logic        [CoarseW-3:0]  shifted;
  logic        [4*Groups-1:0] above;
  logic        [Groups-1:0]   differs;
  logic signed [CoarseW-1:0]  coarse_q;
  logic        [2:0]          fine_q;
  logic                       negative, outside;

  assign negative = kept_q[ProductW-1];
  assign shifted  = (CoarseW - 2)'($signed({kept_q, 1'b0}) >>> {shift_kept_q[5:2], 2'b00});
  assign above    = (4 * Groups)'(kept_q[ProductW-1:CoarseW-3] ^ {AboveW{negative}});
  for (genvar i = 0; i < Groups; i++) begin : g_differs
    assign differs[i] = |above[4*i+:4];
  end
  assign outside = |(differs >> shift_kept_q[5:2]);

  always_ff @(posedge clk_i) begin
    if (move[Stages-2]) begin
      coarse_q <= {negative, negative ^ outside, shifted};
      fine_q   <= 3'(shift_kept_q[1:0]) + 1'b1;
    end
  end

  // ---- Round and saturate. ----
  logic signed [OUT_W-1:0] value;

  round_shift #(
    .IN_W(CoarseW),
    .OUT_W(OUT_W),
    .SHIFT_W(3)
  ) u_round_shift (
    .value_i(coarse_q),
    .shift_i(fine_q),
    .value_o(value)
  );

  always_ff @(posedge clk_i) begin
    if (move[Stages-1]) value_o <= value;
  end
endmodule
