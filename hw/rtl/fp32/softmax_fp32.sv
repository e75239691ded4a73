// Softmax of IEEE single-precision numbers: what the integer one is compared with, made with the
// same care. Same stream, same three passes, same kind of memory; inside, all is fixed point.
//
//   Fill    numbers go to the memory; the largest is found by comparing integers.
//   Sum     d = max - x in 7.24 bits; t = d log2(e) = n + f; 2^-t is 2^-n times one of 512 straight
//           lines; added up with 30 fraction bits.
//   Divide  one reciprocal a row, a bit a clock.
//   Emit    2^-t once more, times the reciprocal, normalised and rounded to nearest.
//
// Results above 2^-20 have a relative error of at most 2^-20. Below 2^-126 they are zero, as are
// numbers below 2^-126 at the input. Infinities and NaN are not supported.
//
// Without stalls a row takes 3 N + 47 + log2(LENGTH) clocks. Rows longer than LENGTH are not
// detected. Reset is synchronous, active low.

module softmax_fp32 #(
  parameter int unsigned LENGTH = 256,
  parameter bit          DSP    = 1'b1 // multiply in DSPs, or in LUTs
) (
  input  logic        clk_i,
  input  logic        rst_ni,

  input  logic        valid_i,
  output logic        ready_o,
  input  logic [31:0] x_i,
  input  logic        last_i,

  output logic        valid_o,
  input  logic        ready_i,
  output logic [31:0] y_o,
  output logic        last_o
);
  `include "exp2_table.svh"

  localparam int unsigned AddrW  = (LENGTH > 1) ? $clog2(LENGTH) : 1;
  localparam int unsigned Growth = $clog2(LENGTH);
  localparam int unsigned SumW   = 31 + Growth; // 30 fraction bits
  localparam int unsigned Steps  = 26 + Growth; // quotient bits: 26 after the leading zeros
  localparam int unsigned StepW  = $clog2(Steps + 1);

  typedef enum logic [1:0] {Fill, Sum, Divide, Emit} state_e;

  state_e           state_q;
  logic             filling, step, take, fill_end, sum_end, divide_end, emit_end;
  logic             done_q;          // all of the row has been read
  logic [11:1]      valid_q, last_q; // of each stage's contents
  logic [AddrW-1:0] addr_q;
  logic [StepW-1:0] count_q;

  // ---- Memory of one row: `last` beside its number. ----
  //
  // As keys, numbers are in the order of unsigned integers.
  (* ram_style = "block" *) logic [32:0] row[2**AddrW];
  logic [31:0] key, key_q, max_q;

  assign key = x_i[31] ? ~x_i : {1'b1, x_i[30:0]};

  always_ff @(posedge clk_i) begin
    if (take) row[addr_q] <= {last_i, key};
    if (step) {last_q[1], key_q} <= row[addr_q];
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni || emit_end) max_q <= '0;
    else if (take && key > max_q) max_q <= key;
  end

  // ---- Control. ----
  assign filling    = state_q == Fill;
  assign ready_o    = filling;
  assign valid_o    = valid_q[11] && state_q == Emit;
  assign last_o     = last_q[11];
  assign step       = ready_i | ~valid_o;
  assign take       = valid_i & ready_o;
  assign fill_end   = take & last_i;
  assign sum_end    = state_q == Sum && valid_q[10] && last_q[10];
  assign divide_end = state_q == Divide && count_q == StepW'(Steps - 1);
  assign emit_end   = valid_o & ready_i & last_o;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) state_q <= Fill;
    else if (fill_end) state_q <= Sum;
    else if (sum_end) state_q <= Divide;
    else if (divide_end) state_q <= Emit;
    else if (emit_end) state_q <= Fill;
  end

  logic reading;
  assign reading = (state_q == Sum || state_q == Emit) && !done_q && !(valid_q[1] && last_q[1]);

  always_ff @(posedge clk_i) begin
    if (!rst_ni) valid_q <= '0;
    else if (sum_end || emit_end) valid_q <= '0;
    else if (step) valid_q <= {valid_q[10:1], reading};
  end

  always_ff @(posedge clk_i) begin
    if (fill_end || divide_end) done_q <= 1'b0;
    else if (step && valid_q[1] && last_q[1]) done_q <= 1'b1;
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni || fill_end || sum_end || emit_end) addr_q <= '0;
    else if (take || (reading && step)) addr_q <= addr_q + 1'b1;
  end

  always_ff @(posedge clk_i) begin
    if (step) last_q[11:2] <= last_q[10:1];
  end

  // ---- 2 to 4: d = max - x. ----
  //
  // It is never negative, so the larger magnitude comes first and the other is added or taken away.
  // Which is larger follows from the signs, but for unlike ones, where only exponents matter.
  logic [30:0] max_mag, mag, greater, lesser;
  logic        both_positive, both_negative, swap;
  logic [7:0]  apart;

  assign max_mag       = max_q[31] ? max_q[30:0] : ~max_q[30:0];
  assign mag           = key_q[31] ? key_q[30:0] : ~key_q[30:0];
  assign both_positive = max_q[31] & key_q[31];
  assign both_negative = ~max_q[31] & ~key_q[31];
  assign swap          = both_negative | (~both_positive & (max_mag[30:23] < mag[30:23]));
  assign greater       = swap ? mag : max_mag;
  assign lesser        = swap ? max_mag : mag;
  assign apart         = greater[30:23] - lesser[30:23];

  logic [23:0] greater2_q, lesser2_q, greater3_q;
  logic [7:0]  exp2_q, exp3_q, exp4_q;
  logic [4:0]  apart2_q;
  logic        add2_q, add3_q;
  logic [27:0] lesser3_q;
  logic [28:0] d4_q;

  // a + b is a - ~b - 1: one chain for both, whose first bit makes the borrow.
  logic [28:0] d4;
  assign d4 = 29'(({1'b0, greater3_q, 5'b00000} - {{1'b0, lesser3_q} ^ {29{add3_q}}, add3_q}) >> 1);

  always_ff @(posedge clk_i) begin
    if (step) begin
      greater2_q <= {greater[30:23] != 0, (greater[30:23] != 0) ? greater[22:0] : 23'b0};
      lesser2_q  <= {lesser[30:23] != 0, (lesser[30:23] != 0) ? lesser[22:0] : 23'b0};
      apart2_q   <= (apart[7:5] != 0) ? '1 : apart[4:0];
      exp2_q     <= greater[30:23];
      add2_q     <= ~both_positive & ~both_negative;

      lesser3_q  <= {lesser2_q, 4'b0000} >> apart2_q;
      greater3_q <= greater2_q;
      exp3_q     <= exp2_q;
      add3_q     <= add2_q;

      d4_q       <= d4;
      exp4_q     <= exp3_q;
    end
  end

  // ---- 5: d in units of 2^-24, below 128. Beyond that the result is zero. ----
  //
  // d4 is worth 2^(exp - 154), so it moves left by exp - 130. Written as a move to the right, it is
  // one shifter for both directions, and 31 bits wide; a mask finds what left would push out.
  logic [7:0]  right;
  logic [57:0] moved;
  logic [28:0] pushed;
  logic [30:0] d5_q;
  logic        over5_q;
  logic        unused_moved;

  assign right        = 8'd157 - exp4_q;
  assign moved        = {2'b00, d4_q, 27'b0} >> right[5:0];
  assign unused_moved = ^moved[57:31];
  assign pushed       = d4_q & ({29{1'b1}} << (5'd1 - exp4_q[4:0])); // 161 - exp, of 5 bits

  always_ff @(posedge clk_i) begin
    if (step) begin
      d5_q    <= (right[7:6] != 0) ? '0 : moved[30:0];
      over5_q <= (exp4_q > 8'd160) ? d4_q != 0 : exp4_q > 8'd132 && pushed != 0;
    end
  end

  // ---- 6: t = d log2(e), in units of 2^-24. ----
  logic [31:0] t, t6_q;
  logic        over6_q;

  if (DSP) begin : g_log2e_dsp
    localparam logic [25:0] Log2E = 26'd48408813; // in units of 2^-25
    logic [56:0] product;
    logic        unused_product;

    assign product        = d5_q * Log2E;
    assign t              = product[56:25];
    assign unused_product = ^product[24:0];
  end else begin : g_log2e_lut
    // The same constant in signed digits, +1 at 0, -1 at 2 and 4, +1 at 8 and so on up to 26: ten
    // additions, where its ones would take fourteen. What a step leaves behind is final.
    logic signed [33:0] d, h0, h1, h2, h3, h4, h5, h6, h7, h8, h9, h10;
    logic               unused_h;

    assign d   = {3'b000, d5_q};
    assign h0  = d;
    assign h1  = (h0 >>> 2) - d;
    assign h2  = (h1 >>> 2) - d;
    assign h3  = (h2 >>> 4) + d;
    assign h4  = (h3 >>> 3) + d;
    assign h5  = (h4 >>> 2) + d;
    assign h6  = (h5 >>> 2) + d;
    assign h7  = (h6 >>> 2) + d;
    assign h8  = (h7 >>> 4) - d;
    assign h9  = (h8 >>> 3) - d;
    assign h10 = (h9 >>> 2) + d;
    assign t        = {h10[30:0], h9[1]};
    assign unused_h = ^{h10[33:31], h9[0]};
  end

  always_ff @(posedge clk_i) begin
    if (step) begin
      t6_q    <= t;
      over6_q <= over5_q;
    end
  end

  // ---- 7 to 9: 2^-f, between 1/2 and 1, in units of 2^-25. ----
  (* rom_style = "block" *) logic [40:0] rom[512];
  initial begin
    for (int i = 0; i < 512; i++) rom[i] = Exp2Table[41*i+:41];
  end

  logic [24:0] value7_q, value8_q, mantissa9_q;
  logic [15:0] slope7_q, fall8_q;
  logic [14:0] w7_q;
  logic [7:0]  n7_q, n8_q, n9_q;
  logic [30:0] fall;
  logic        unused_fall;

  multiply #(
    .A_W(16),
    .B_W(15),
    .DSP(DSP)
  ) u_fall (
    .a_i      (slope7_q),
    .b_i      (w7_q),
    .product_o(fall)
  );

  assign unused_fall = ^fall[14:0];

  always_ff @(posedge clk_i) begin
    if (step) begin
      {value7_q, slope7_q} <= rom[t6_q[23:15]];
      w7_q                 <= t6_q[14:0];
      n7_q                 <= over6_q ? '1 : t6_q[31:24];

      fall8_q              <= fall[30:15];
      value8_q             <= value7_q;
      n8_q                 <= n7_q;

      mantissa9_q          <= value8_q - 25'(fall8_q);
      n9_q                 <= n8_q;
    end
  end

  // ---- 10 and 11 while adding up. ----
  logic [29:0]     term10_q;
  logic [SumW-1:0] sum_q;

  always_ff @(posedge clk_i) begin
    term10_q <= (n9_q[7:5] != 0) ? '0 : {mantissa9_q, 5'b00000} >> n9_q[4:0];
    if (filling) sum_q <= '0;
    else if (state_q == Sum && valid_q[10]) sum_q <= sum_q + SumW'(term10_q);
  end

  // ---- The reciprocal: division without restoring, one addition or subtraction a clock. ----
  //
  // A bit of 1 / sum is 1 if the remainder did not become negative. Bits are kept from the first 1
  // on, and the zeros before it counted, so that the quotient needs no normalising.
  logic [SumW:0] remainder_q, doubled, subtrahend, remainder_d;
  logic [25:0]   inverse_q;
  logic [7:0]    bias_q;
  logic          seen, add;

  assign seen        = inverse_q != 0;
  assign add         = remainder_q[SumW];
  assign doubled     = {remainder_q[SumW-1:0], 1'b0};
  assign subtrahend  = {1'b0, sum_q} ^ {(SumW + 1) {add}};
  assign remainder_d = (SumW + 1)'(({doubled, 1'b0} - {subtrahend, add}) >> 1);

  always_ff @(posedge clk_i) begin
    if (state_q == Sum) begin
      count_q     <= '0;
      remainder_q <= (SumW + 1)'(1 << 29);
      inverse_q   <= '0;
      bias_q      <= 8'd127;
    end else if (state_q == Divide) begin
      count_q     <= count_q + 1'b1;
      remainder_q <= remainder_d;
      if (!inverse_q[25]) inverse_q <= {inverse_q[24:0], ~remainder_d[SumW]};
      if (!seen && remainder_d[SumW]) bias_q <= bias_q - 1'b1;
    end
  end

  // ---- 10 and 11 while emitting: the product, its leading one, rounding, and the exponent. ----
  logic [50:0] product10, product10_q;
  logic [7:0]  n10_q;
  logic [8:0]  exponent;
  logic [23:0] fraction;
  logic [31:0] packed_y;
  logic        unused_product10;

  multiply #(
    .A_W(26),
    .B_W(25),
    .DSP(DSP)
  ) u_product (
    .a_i      (inverse_q),
    .b_i      (mantissa9_q),
    .product_o(product10)
  );

  assign exponent = 9'(({1'b0, bias_q, 1'b0} - {1'b0, n10_q, ~product10_q[50]}) >> 1);
  assign fraction = product10_q[50] ? product10_q[49:26] : product10_q[48:25];
  assign packed_y = {exponent, fraction[23:1]} + {31'b0, fraction[0]};
  assign unused_product10 = ^{product10_q[24:0], packed_y[31]};

  always_ff @(posedge clk_i) begin
    if (step) begin
      product10_q <= product10;
      n10_q       <= n9_q;
      y_o         <= (exponent[8] || exponent == 0) ? '0 : {1'b0, packed_y[30:0]};
    end
  end
endmodule
