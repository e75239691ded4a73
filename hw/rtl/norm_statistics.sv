// What LayerNorm needs to know of a row: d = epsilon_i plus the sum of its squares, as the place of
// its entry in a table of 1/sqrt, index_o, and the shift that goes with it, halves_o.
//
// A row enters WORDS signed numbers of 16 bits a clock, the last ones marked by last_i; five clocks
// after them its results leave. With n = floor(log2 d), halves_o is n / 2 without the fraction, and
// index_o is the odd bit of n, then the seven bits below the leading one of d. d is above 0, as
// epsilon_i is, and below 2^48. epsilon_i holds still while rows are on their way.
//
// Five stages: square, add the words of one clock, add up, and find the leading one, its byte first
// and its bit then. Rows follow one another without a gap.
//
// Reset is synchronous, active low, and forgets the row: it touches the valid bits and the mark of
// a row's beginning. Data registers need none and have none.

module norm_statistics #(
  parameter int unsigned WORDS = 1
) (
  input  logic                clk_i,
  input  logic                rst_ni,

  input  logic                valid_i,
  output logic                ready_o,
  input  logic [16*WORDS-1:0] residual_i,
  input  logic                last_i,
  input  logic [31:0]         epsilon_i,

  output logic                valid_o,
  input  logic                ready_i,
  output logic [7:0]          index_o,
  output logic [5:0]          halves_o
);
  localparam int unsigned SquareW = 31; // up to 2^30
  localparam int unsigned SumW    = SquareW + $clog2(WORDS);
  localparam int unsigned TotalW  = 48;
  localparam int unsigned Bytes   = TotalW / 8;

  // ---- Control: all stages step together, and stand still only while a result waits. ----
  logic [1:0] valid_q, last_q; // of the squares and of their sum
  logic       first_q, total_valid_q, window_valid_q, step;

  assign step    = ready_i | ~valid_o;
  assign ready_o = step;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      valid_q        <= '0;
      total_valid_q  <= 1'b0;
      window_valid_q <= 1'b0;
      valid_o        <= 1'b0;
    end else if (step) begin
      valid_q        <= {valid_q[0], valid_i};
      total_valid_q  <= valid_q[1] & last_q[1];
      window_valid_q <= total_valid_q;
      valid_o        <= window_valid_q;
    end
  end

  always_ff @(posedge clk_i) begin
    if (step) last_q <= {last_q[0], last_i};
  end

  // ---- Square. ----
  logic [SquareW*WORDS-1:0] square_q;

  for (genvar i = 0; i < WORDS; i++) begin : g_square
    logic signed [15:0] word;

    assign word = residual_i[16*i+:16];
    always_ff @(posedge clk_i) begin
      if (step) square_q[SquareW*i+:SquareW] <= SquareW'(word * word);
    end
  end

  // ---- Add the words of one clock: for one word the output register of a DSP block. ----
  logic [SumW-1:0] sum, sum_q;

  always_comb begin
    sum = '0;
    for (int unsigned i = 0; i < WORDS; i++) sum = sum + SumW'(square_q[SquareW*i+:SquareW]);
  end

  always_ff @(posedge clk_i) begin
    if (step) sum_q <= sum;
  end

  // ---- Add up. ----
  //
  // A row starts from epsilon, which costs neither a clock nor a LUT: the choice shares the LUTs of
  // the carry chain.
  logic [TotalW-1:0] total_q, start;

  assign start = first_q ? TotalW'(epsilon_i) : total_q;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) first_q <= 1'b1;
    else if (step && valid_q[1]) first_q <= last_q[1];
  end

  always_ff @(posedge clk_i) begin
    if (step && valid_q[1]) total_q <= start + TotalW'(sum_q);
  end

  // ---- The leading one: the highest byte that is not 0, with the one below, then the bit. ----
  logic [$clog2(Bytes)-1:0] place, place_q;
  logic [15:0]              window, window_q;

  // The last true condition wins: a priority encoder.
  always_comb begin
    place  = '0;
    window = {total_q[7:0], 8'h00};
    for (int unsigned k = 1; k < Bytes; k++) begin
      if (|total_q[8*k+:8]) begin
        place  = ($clog2(Bytes))'(k);
        window = total_q[8*k-8+:16];
      end
    end
  end

  always_ff @(posedge clk_i) begin
    if (step) begin
      place_q  <= place;
      window_q <= window;
    end
  end

  logic [3:0] exponent; // 8 to 15: bit 3 is 1
  logic [6:0] fraction;
  logic       unused_exponent;

  leading_one #(
    .IN_W(16),
    .FRACTION(7)
  ) u_leading_one (
    .value_i(window_q),
    .exponent_o(exponent),
    .fraction_o(fraction)
  );
  assign unused_exponent = exponent[3];

  always_ff @(posedge clk_i) begin
    if (step) begin
      index_o  <= {exponent[0], fraction};
      halves_o <= {1'b0, place_q, exponent[2:1]};
    end
  end
endmodule
