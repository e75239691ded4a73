// From dot products to weights: scores, softmax, and what the weighted sum is to be divided by.
//
// The lanes hold HEADS heads; each has a softmax unit, which takes the scores of GROUPS positions a
// clock and gives as many weights. All of them march in step, so that the first one speaks for all.
// The weights of a row wait in their unit until the pass that mixes the values asks for them:
// `take_i` is that pass' clock 6.
//
// Nothing is divided: the largest weight is 255, and the mixture is multiplied by the reciprocal of
// the weights' sum, on its way out of the lanes. One table serves all heads, one head a clock.

module attention #(
  parameter int unsigned HEADS  = 2,
  parameter int unsigned GROUPS = 1,
  parameter int unsigned BLOCK  = 64,
  parameter bit          SPLIT  = 1'b0, // see requantise.sv
  // Derived; not to be set.
  parameter int unsigned COUNT_W = $clog2(GROUPS + 1)
) (
  input  logic                       clk_i,
  input  logic                       rst_ni,

  input  logic [15:0]                multiplier_i,
  input  logic [5:0]                 shift_i,
  input  logic [1:0]                 mix_shift_i,

  // Dot products, group after group within a head; `count_i` of the row's last ones count.
  input  logic                       valid_i,
  input  logic                       last_i,
  input  logic [COUNT_W-1:0]         count_i,
  input  logic [32*GROUPS*HEADS-1:0] dots_i,

  output logic                       ready_o, // weights wait
  input  logic                       take_i,
  output logic [8*GROUPS*HEADS-1:0]  weights_o,

  // Four clocks after the last weights and later.
  output logic [16*HEADS-1:0]        reciprocal_o,
  output logic [6*HEADS-1:0]         reciprocal_shift_o
);
  localparam int unsigned Fraction = 5;
  localparam int unsigned SumW     = 8 + $clog2(BLOCK);
  localparam int unsigned HeadW    = (HEADS > 1) ? $clog2(HEADS) : 1;
  localparam int unsigned ExpW     = $clog2(SumW);

  logic [GROUPS*HEADS-1:0]    scored;
  logic [16*GROUPS*HEADS-1:0] scores;
  logic [HEADS-1:0]           waiting, row_last, taken;
  logic [GROUPS*HEADS-1:0]    accepted;
  logic [SumW*HEADS-1:0]      sums;
  logic [3:0]                 last_q; // as many clocks as a requantiser without bias

  always_ff @(posedge clk_i) last_q <= {last_q[2:0], last_i};

  for (genvar h = 0; h < HEADS; h++) begin : g_head
    for (genvar g = 0; g < GROUPS; g++) begin : g_group
      requantise #(.ACC_W(24), .OUT_W(16), .BIAS(1'b0), .SPLIT(SPLIT)) u_score (
        .clk_i,
        .rst_ni,
        .valid_i,
        .ready_o     (accepted[GROUPS*h+g]),
        .acc_i       (dots_i[32*(GROUPS*h+g) +: 24]),
        .bias_i      ('0),
        .multiplier_i,
        .shift_i,
        .valid_o     (scored[GROUPS*h+g]),
        .ready_i     (1'b1),
        .value_o     (scores[16*(GROUPS*h+g) +: 16])
      );
    end

    softmax #(
      .LENGTH(BLOCK), .SCORE_W(16), .FRACTION(Fraction), .WEIGHTS(1'b1), .COLUMNS(GROUPS),
      .PIPELINED(1'b1)
    ) u_softmax (
      .clk_i,
      .rst_ni,
      .valid_i(scored[GROUPS*h]),
      .ready_o(taken[h]),
      .score_i(scores[16*GROUPS*h +: 16*GROUPS]),
      .count_i,
      .last_i (last_q[3]),
      .valid_o(waiting[h]),
      .ready_i(take_i),
      .value_o(weights_o[8*GROUPS*h +: 8*GROUPS]),
      .sum_o  (sums[SumW*h +: SumW]),
      .last_o (row_last[h])
    );
  end

  assign ready_o = waiting[0];

  // Nothing here ever has to wait for its successor: rows come far enough apart.
  logic unused;
  assign unused = ^{waiting, row_last, taken, accepted, scored, dots_i};

  // ---- The reciprocals. ----
  //
  // 2^16 / (1 + f) by eight bits of f, at the middle of each interval: a constant, so a ROM.
  logic [15:0] reciprocals [256];
  initial begin
    for (int unsigned i = 0; i < 256; i++) begin
      reciprocals[i] = 16'(((2 << 25) + 513 + (2 * i)) / (2 * (513 + (2 * i))));
    end
  end

  logic [2:0]        run_q;            // sum chosen, leading one found, reciprocal read
  logic [HeadW-1:0]  head_q, found_head_q, read_head_q;
  logic [SumW-1:0]   sum;
  logic [ExpW-1:0]   exponent, exponent_q, read_exponent_q;
  logic [7:0]        fraction, fraction_q;
  logic [15:0]       read_q;

  assign sum = sums[SumW*head_q +: SumW];

  leading_one #(.IN_W(SumW), .FRACTION(8)) u_leading_one (
    .value_i   (sum),
    .exponent_o(exponent),
    .fraction_o(fraction)
  );

  always_ff @(posedge clk_i) begin
    if (!rst_ni) run_q <= '0;
    else begin
      if (take_i && row_last[0] && waiting[0]) run_q[0] <= 1'b1;
      else if (head_q == HeadW'(HEADS - 1)) run_q[0] <= 1'b0;
      run_q[2:1] <= run_q[1:0];
    end
  end

  always_ff @(posedge clk_i) begin
    head_q <= (run_q[0] && head_q != HeadW'(HEADS - 1)) ? head_q + 1'b1 : '0;
    if (run_q[0]) begin
      {found_head_q, exponent_q, fraction_q} <= {head_q, exponent, fraction};
    end
    if (run_q[1]) begin
      {read_head_q, read_exponent_q} <= {found_head_q, exponent_q};
      read_q <= reciprocals[fraction_q];
    end
  end

  for (genvar h = 0; h < HEADS; h++) begin : g_reciprocal
    always_ff @(posedge clk_i) begin
      if (run_q[2] && read_head_q == HeadW'(h)) begin
        reciprocal_o[16*h +: 16]     <= read_q;
        reciprocal_shift_o[6*h +: 6] <= 6'(read_exponent_q) + 6'd16 - 6'(mix_shift_i);
      end
    end
  end
endmodule
