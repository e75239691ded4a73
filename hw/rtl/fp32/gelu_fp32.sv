// GELU of IEEE single-precision numbers: what an integer one is compared with, made with like care.
//
// y = x Phi(x), Phi the normal distribution function, which needs neither tanh nor exp nor a
// division: |x| becomes a fixed-point number u, Phi(u) is one of 256 parabolas, and Phi(-u) is
// 1 - Phi(u); a floating-point product follows. For every finite x, |y - gelu(x)| <= 2^-22 |x|. A
// GELU in software errs in this way too: 1 + erf cancels where x is negative. Numbers below 2^-126
// count as zero, on both sides. Infinities and NaN are not supported.
//
// One number a clock, 9 clocks late, valid and ready on both sides. Reset is synchronous and active
// low.

module gelu_fp32 #(
  parameter bit DSP = 1'b1 // multiply in DSPs, or in LUTs
) (
  input  logic        clk_i,
  input  logic        rst_ni,

  input  logic        valid_i,
  output logic        ready_o,
  input  logic [31:0] x_i,

  output logic        valid_o,
  input  logic        ready_i,
  output logic [31:0] y_o
);
  `include "phi_table.svh"

  localparam int unsigned Stages = 9;

  logic              step;
  logic [Stages-1:0] valid_q;

  // All stages move together, or wait together for the last one's result to be taken.
  assign step    = ready_i | ~valid_o;
  assign ready_o = step;
  assign valid_o = valid_q[Stages-1];

  always_ff @(posedge clk_i) begin
    if (!rst_ni) valid_q <= '0;
    else if (step) valid_q <= {valid_q[Stages-2:0], valid_i};
  end

  // What x itself still has to give when Phi is known: seven stages, which become shift registers.
  logic [31:0] x_q[8];
  always_ff @(posedge clk_i) begin
    if (step) x_q[0] <= x_i;
  end
  for (genvar i = 1; i < 8; i++) begin : g_delay
    always_ff @(posedge clk_i) begin
      if (step) x_q[i] <= x_q[i-1];
    end
  end

  // ---- 1: |x| in fixed point, 3 bits before the point and 24 after it. ----
  logic        over_q, over_d;
  logic [7:0]  right;
  logic [26:0] u_d, u_q;

  assign right  = 8'd129 - x_i[30:23]; // an exponent of 129 means 4 to 8
  assign over_d = x_i[30:23] > 8'd129; // Phi is 1 there
  assign u_d    = (right[7:5] != 0) ? '0 : {1'b1, x_i[22:0], 3'b000} >> right[4:0];

  always_ff @(posedge clk_i) begin
    if (step) begin
      u_q    <= u_d;
      over_q <= over_d;
    end
  end

  // ---- 2: the parabola. A block RAM, with its output register. ----
  (* rom_style = "block" *) logic [56:0] rom[256];
  initial begin
    for (int i = 0; i < 256; i++) rom[i] = PhiTable[57*i+:57];
  end

  logic [24:0] value_q;
  logic [19:0] slope_q;
  logic [11:0] bend_q;
  logic [18:0] w2_q;
  logic [3:0]  over_later_q;

  always_ff @(posedge clk_i) begin
    if (step) begin
      {value_q, slope_q, bend_q} <= rom[u_q[26:19]];
      w2_q                       <= u_q[18:0];
      over_later_q               <= {over_later_q[2:0], over_q};
    end
  end

  // ---- 3 to 6: Horner's rule, a product and a sum a stage each; then 1 - Phi for negative x. ----
  logic [24:0] bent_q, value3_q, value4_q, value5_q, sum, phi_q;
  logic [19:0] slope3_q, slope4_q;
  logic [18:0] w3_q, w4_q;
  logic [38:0] rise_q;

  logic [24:0] bent;
  logic [38:0] rise;
  logic [48:0] product;

  multiply #(
    .A_W(13),
    .B_W(12),
    .DSP(DSP)
  ) u_bend (
    .a_i      (w2_q[18:6]),
    .b_i      (bend_q),
    .product_o(bent)
  );

  multiply #(
    .A_W(20),
    .B_W(19),
    .DSP(DSP)
  ) u_slope (
    .a_i      (slope4_q),
    .b_i      (w4_q),
    .product_o(rise)
  );

  assign sum = value5_q + 25'(rise_q[38:20]);

  always_ff @(posedge clk_i) begin
    if (step) begin
      bent_q   <= bent;
      slope3_q <= slope_q;
      w3_q     <= w2_q;
      value3_q <= value_q;

      slope4_q <= slope3_q - 20'(bent_q[24:12]);
      w4_q     <= w3_q;
      value4_q <= value3_q;

      rise_q   <= rise;
      value5_q <= value4_q;

      phi_q    <= (over_later_q[3] ? '1 : sum) ^ {25{x_q[4][31]}};
    end
  end

  // ---- 7: leading zeros of Phi away, by 16, 8, 4, 2 and 1. ----
  logic [4:0]  zeros, zeros_q, zeros8_q;
  logic [24:0] by_16, by_8, by_4, by_2, by_1, factor_q;

  assign zeros[4] = phi_q[24:9] == 0;
  assign by_16    = zeros[4] ? {phi_q[8:0], 16'b0} : phi_q;
  assign zeros[3] = by_16[24:17] == 0;
  assign by_8     = zeros[3] ? {by_16[16:0], 8'b0} : by_16;
  assign zeros[2] = by_8[24:21] == 0;
  assign by_4     = zeros[2] ? {by_8[20:0], 4'b0} : by_8;
  assign zeros[1] = by_4[24:23] == 0;
  assign by_2     = zeros[1] ? {by_4[22:0], 2'b0} : by_4;
  assign zeros[0] = ~by_2[24];
  assign by_1     = zeros[0] ? {by_2[23:0], 1'b0} : by_2;

  // ---- 8: the product. 9: its leading one, rounding to nearest, and the exponent. ----
  logic [48:0] product_q;
  logic [8:0]  exponent;
  logic [23:0] fraction;
  logic [31:0] packed_y;
  logic        tiny, unused_low_bits;

  multiply #(
    .A_W(25),
    .B_W(24),
    .DSP(DSP)
  ) u_product (
    .a_i      (factor_q),
    .b_i      ({1'b1, x_q[6][22:0]}),
    .product_o(product)
  );

  // A mantissa of ones rounds up into the exponent, as it must.
  assign exponent = 9'(({1'b0, x_q[7][30:23], 1'b0} - {4'b0, zeros8_q, ~product_q[48]}) >> 1);
  assign fraction = product_q[48] ? product_q[47:24] : product_q[46:23];
  assign packed_y = {exponent, fraction[23:1]} + {31'b0, fraction[0]};
  assign tiny     = exponent[8] || exponent == 0 || !(product_q[48] || product_q[47]);
  assign unused_low_bits = ^{bent_q[11:0], rise_q[19:0], product_q[22:0], packed_y[31]};

  always_ff @(posedge clk_i) begin
    if (step) begin
      factor_q  <= by_1;
      zeros_q   <= zeros;

      product_q <= product;
      zeros8_q  <= zeros_q;

      y_o       <= {x_q[7][31], tiny || x_q[7][30:23] == 0 ? 31'b0 : packed_y[30:0]};
    end
  end
endmodule
