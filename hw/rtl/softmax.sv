// Softmax of integer scores in base 2: subtractions, shifts, additions and a leading-one detector.
//
// A row of 1 to LENGTH signed scores, each worth 2^-FRACTION octaves, enters one score a clock, the
// last one marked by last_i. What leaves, one value a clock and last_o with the last one, is
//
//   WEIGHTS = 0  the code round(-log2 of the weight), clipped to BITS bits;
//   WEIGHTS = 1  the weight relative to the row's largest, 2^-d in 1/256, at most 255. Nothing is
//                divided: by sum_o, which is whole with last_o, the caller divides what it weighed.
//
// Where d = n + f octaves lie below the row's largest score, 2^-d is taken for (1 - f/2) 2^-n, and
// log2(1 + m) for m.
//
// Three passes share one subtractor and one address counter; two passes if WEIGHTS = 1:
//   Fill  scores go to the memory, and the subtractor compares each with the largest so far;
//   Sum   powers of two are added up (codes only);
//   Emit  results leave.
// Without stalls a row of N takes 3 N + 4 clocks from its first score to the next row's (codes), or
// 2 N + 3 (weights), whatever the scores. Rows longer than LENGTH are not detected.
//
// Reset is synchronous, active low: a flip-flop of UltraScale+ has one set/reset input, and used
// synchronously it also clears the maximum and the sum between rows, without a LUT a bit. It may
// come at any time; the row in flight is forgotten. Data registers need none and have none.

module softmax #(
  parameter int unsigned LENGTH    = 256,
  parameter int unsigned SCORE_W   = 16,
  parameter int unsigned FRACTION  = 3,
  parameter int unsigned PRECISION = 15,
  parameter int unsigned BITS      = 4,
  parameter bit          WEIGHTS   = 1'b0,
  // Derived; not to be set. From 1 to LENGTH weights below 2^8.
  parameter int unsigned OUT_W     = WEIGHTS ? 8 : BITS,
  parameter int unsigned SUM_W     = 8 + $clog2(LENGTH)
) (
  input  logic                      clk_i,
  input  logic                      rst_ni,

  input  logic                      valid_i,
  output logic                      ready_o,
  input  logic signed [SCORE_W-1:0] score_i,
  input  logic                      last_i,

  output logic                      valid_o,
  input  logic                      ready_i,
  output logic [OUT_W-1:0]          value_o,
  output logic [SUM_W-1:0]          sum_o,   // 0 for codes
  output logic                      last_o
);
  localparam int unsigned AddrW = (LENGTH > 1) ? $clog2(LENGTH) : 1;
  // Distances are kept below 2^WholeW octaves. A term is zero from PRECISION + 1 octaves on, a
  // weight from 10 on, and a code is the last one from 2^BITS on.
  localparam int unsigned TermW  = $clog2(WEIGHTS ? 10 : PRECISION + 1);
  localparam int unsigned WholeW = (!WEIGHTS && (BITS > TermW)) ? BITS : TermW;
  localparam int unsigned BelowW = WholeW + FRACTION;

  typedef enum logic [1:0] {Fill, Sum, Emit} state_e;

  state_e state_q, state_d;
  logic filling, step, take, row_end;

  // ---- Memory of one row. ----
  //
  // `last` lies beside its score: the end of a row is read, not counted, which saves a register for
  // the length and a comparator. One port writes, one reads, so a block RAM with its own output
  // register fits; read and write never meet, since Fill does not read.
  (* ram_style = "block" *) logic [SCORE_W:0] row [2**AddrW];
  logic [SCORE_W-1:0] read_score_q;
  logic               read_last_q;
  logic [AddrW-1:0]   addr_q;

  // With its sign bit inverted a score is unsigned, in the same order and at the same distances.
  logic [SCORE_W-1:0] score;
  assign score = {~score_i[SCORE_W-1], score_i[SCORE_W-2:0]};

  always_ff @(posedge clk_i) begin
    if (take) row[addr_q] <= {last_i, score};
    if (step) {read_last_q, read_score_q} <= row[addr_q];
  end

  // ---- Control. ----
  //
  // Three stages follow the address: the score read, its distance, the result. `step` moves all of
  // them, and is low only while a result waits for ready_i.
  logic read_valid_q, emit_q, emit_last_q;

  assign filling = state_q == Fill;
  assign step    = ready_i | ~valid_o;
  assign take    = valid_i & ready_o;
  assign ready_o = filling & ~emit_q & ~valid_o; // what leaves still needs the sum of its own row
  assign row_end = filling ? take & last_i : step & read_valid_q & read_last_q;

  always_comb begin
    state_d = state_q;
    if (row_end) begin
      unique case (state_q)
        Fill:    state_d = WEIGHTS ? Emit : Sum;
        Sum:     state_d = Emit;
        default: state_d = Fill;
      endcase
    end
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      state_q <= Fill;
      emit_q  <= 1'b0;
      valid_o <= 1'b0;
    end else begin
      state_q <= state_d;
      if (step) begin
        emit_q  <= read_valid_q & (state_q == Emit);
        valid_o <= emit_q;
      end
    end
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni || row_end) addr_q <= '0;
    else if (filling ? take : step) addr_q <= addr_q + 1'b1;
  end

  // The clock after the last score was read reads one too many, which does not count. None of these
  // needs a reset: Fill empties them.
  always_ff @(posedge clk_i) begin
    if (step) begin
      read_valid_q <= ~filling & ~(read_valid_q & read_last_q);
      emit_last_q  <= read_last_q;
      last_o       <= emit_last_q;
    end
  end

  // ---- Maximum and distance: one subtractor for both. ----
  //
  // Its second operand is the score on its way in, or the one read. The choice costs no LUT: it
  // shares those of the carry chain, which have inputs to spare. A borrow means a new maximum.
  logic [SCORE_W-1:0] max_q, operand, below;
  logic [BelowW-1:0]  below_q;
  logic               borrow, far, far_q;

  assign operand         = filling ? score : read_score_q;
  assign {borrow, below} = {1'b0, max_q} - {1'b0, operand};

  always_ff @(posedge clk_i) begin
    if (!rst_ni || (row_end && state_q == Emit)) max_q <= '0; // the lowest score there is
    else if (take && borrow) max_q <= operand;
  end

  // Farther than any result reaches is kept in one bit.
  if (SCORE_W > BelowW) begin : g_far
    assign far = |below[SCORE_W-1:BelowW];
  end else begin : g_near
    assign far = 1'b0;
  end

  always_ff @(posedge clk_i) begin
    if (step) begin
      below_q <= BelowW'(below);
      far_q   <= far;
    end
  end

  logic [WholeW-1:0] whole;
  assign whole = below_q[BelowW-1:FRACTION];

  // (2 - f) in units of 2^-FRACTION, from the bits of f; a table for the synthesiser to fold.
  logic [FRACTION+1:0] ramp;
  if (FRACTION > 0) begin : g_ramp
    assign ramp = (FRACTION + 2)'(2 << FRACTION) - (FRACTION + 2)'(below_q[FRACTION-1:0]);
  end else begin : g_step
    assign ramp = 2'd2;
  end

  // The octave's shift goes right by 0 to 3 first, where 2 - f still has few bits, and by multiples
  // of 4 afterwards: a LUT chooses among four of the one and two of the other, and nothing is wide.
  localparam int unsigned Unit  = WEIGHTS ? 9 : PRECISION; // fraction bits of a term
  localparam int unsigned FineW = FRACTION + 5;           // FRACTION + 4 of them fraction bits
  logic [FineW-1:0] fine;
  logic [Unit:0]    wide, term;

  assign fine = {ramp, 3'b000} >> whole[1:0];
  if (Unit >= FRACTION + 4) begin : g_left
    assign wide = (Unit + 1)'(fine) << (Unit - FRACTION - 4);
  end else begin : g_right
    assign wide = (Unit + 1)'(fine >> (FRACTION + 4 - Unit));
  end
  assign term = far_q ? '0 : wide >> {whole[WholeW-1:2], 2'b00};

  if (WEIGHTS) begin : g_weights
    // ---- The weight rounded to 1/256, and the sum of weights. ----
    logic [8:0] rounded;
    logic [7:0] weight;

    assign rounded = 9'((term + 1'b1) >> 1);
    assign weight  = rounded[8] ? '1 : rounded[7:0];

    always_ff @(posedge clk_i) begin
      if (take) sum_o <= '0;
      else if (step && emit_q) sum_o <= sum_o + SUM_W'(weight);
      if (step) value_o <= weight;
    end
  end else begin : g_codes
    // ---- The sum of powers of two, its logarithm, and the code. ----
    localparam int unsigned Growth = $clog2(LENGTH);
    localparam int unsigned LogW   = $clog2(Growth + 2) + FRACTION;
    localparam int unsigned TotalW = ((LogW > BelowW) ? LogW : BelowW) + 1;
    localparam logic [LogW-1:0] Half     = LogW'((1 << FRACTION) >> 1);
    localparam logic [LogW-1:0] Mantissa = LogW'((1 << FRACTION) - 1);

    logic                       sum_valid_q;
    logic [PRECISION+Growth:0]  left_q, sum;
    logic [LogW-1:0]            log, log_q;
    logic [TotalW-FRACTION-1:0] code;

    // The sum is kept inverted, as -1 - sum, and terms are taken away: only the first operand of a
    // subtraction goes to the carry chain directly, so that the last LUTs of the term's shifter are
    // those in front of the chain. Of an addition the synthesiser may exchange the two.
    assign sum = ~left_q;

    // The largest score alone adds 2^PRECISION, so the leading one is there or higher. The last
    // true condition wins: a priority encoder, with the bits after the leading one as its payload.
    always_comb begin
      log = '0;
      for (int unsigned k = 0; k <= Growth; k++) begin
        if (sum[PRECISION+k]) begin
          log = LogW'(k << FRACTION) | (LogW'(sum >> (PRECISION + k - FRACTION)) & Mantissa);
        end
      end
    end

    always_ff @(posedge clk_i) begin
      sum_valid_q <= read_valid_q & (state_q == Sum);
      if (take) left_q <= '1;
      else if (sum_valid_q) left_q <= left_q - (PRECISION + Growth + 1)'(term);
      log_q <= log + Half; // the sum stands still long before the first code needs it
    end

    assign code = (TotalW - FRACTION)'((TotalW'(below_q) + TotalW'(log_q)) >> FRACTION);

    always_ff @(posedge clk_i) begin
      if (step) begin
        value_o <= (far_q || |code[TotalW-FRACTION-1:BITS]) ? '1 : code[BITS-1:0];
      end
    end
    assign sum_o = '0;
  end
endmodule
