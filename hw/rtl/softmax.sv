// Softmax of integer scores in base 2: subtractions, shifts, additions and a leading-one detector.
//
// A row of 1 to LENGTH signed scores, each worth 2^-FRACTION octaves, enters one score a clock, the
// last one marked by last_i. What leaves, one value a clock and last_o with the last one, is
//
//   WEIGHTS = 0  the code round(-log2 of the weight), clipped to BITS bits;
//   WEIGHTS = 1  the weight relative to the row's largest, 2^-d in 1/256, at most 255. Nothing is
//                divided: by sum_o, which is whole with last_o, the caller divides what it weighed.
//
// Or COLUMNS scores enter a clock, the first lowest, and as many weights leave. With a row's last
// scores count_i says how many columns hold one; the others are not looked at, and weigh 0. Before,
// count_i is not read. Columns and PIPELINED are for weights alone.
//
// Where d = n + f octaves lie below the row's largest score, 2^-d is taken for (1 - f/2) 2^-n, and
// log2(1 + m) for m.
//
// Three passes share one subtractor and one address counter; two passes if WEIGHTS = 1:
//   Fill  scores go to the memory, and the subtractor compares each with the largest so far;
//   Sum   powers of two are added up (codes only);
//   Emit  results leave.
// Without stalls a row of N clocks takes 3 N + 4 from its first score to the next row's (codes), or
// 2 N + 3 (weights), whatever the scores; its first weights leave 4 clocks after its last scores.
// Rows longer than LENGTH are not detected.
//
// PIPELINED puts two more registers in Emit's way, for a faster clock: one behind the memory, which
// is slow to answer, and one between the weights and their sum. A row then takes two clocks more.
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
  parameter int unsigned COLUMNS   = 1,
  parameter bit          PIPELINED = 1'b0,
  // Derived; not to be set. From 1 to LENGTH weights below 2^8.
  parameter int unsigned OUT_W     = WEIGHTS ? 8 : BITS,
  parameter int unsigned SUM_W     = 8 + $clog2(LENGTH),
  parameter int unsigned COUNT_W   = $clog2(COLUMNS + 1)
) (
  input  logic                       clk_i,
  input  logic                       rst_ni,

  input  logic                       valid_i,
  output logic                       ready_o,
  input  logic [COLUMNS*SCORE_W-1:0] score_i, // signed
  input  logic                       last_i,
  input  logic [COUNT_W-1:0]         count_i, // 1 to COLUMNS, read with last_i only

  output logic                       valid_o,
  input  logic                       ready_i,
  output logic [COLUMNS*OUT_W-1:0]   value_o,
  output logic [SUM_W-1:0]           sum_o,   // 0 for codes
  output logic                       last_o
);
  localparam int unsigned Depth = (LENGTH + COLUMNS - 1) / COLUMNS;
  localparam int unsigned AddrW = (Depth > 1) ? $clog2(Depth) : 1;
  localparam int unsigned RowW  = COLUMNS * (SCORE_W + 1);
  // Distances are kept below 2^WholeW octaves. A term is zero from PRECISION + 1 octaves on, a
  // weight from 10 on, and a code is the last one from 2^BITS on.
  localparam int unsigned TermW  = $clog2(WEIGHTS ? 10 : PRECISION + 1);
  localparam int unsigned WholeW = (!WEIGHTS && (BITS > TermW)) ? BITS : TermW;
  localparam int unsigned BelowW = WholeW + FRACTION;

  if (!WEIGHTS && (COLUMNS > 1 || PIPELINED)) begin : g_unsupported
    $error("softmax: columns and PIPELINED need WEIGHTS");
  end

  typedef enum logic [1:0] {Fill, Sum, Emit} state_e;

  state_e state_q, state_d;
  logic filling, step, take, row_end;

  // ---- Memory of one row. ----
  //
  // `last` lies beside its score: the end of a row is read, not counted, which saves a register for
  // the length and a comparator. One port writes, one reads, so a block RAM with its own output
  // register fits; read and write never meet, since nothing that Fill reads is used.
  //
  // Beside the scores of further columns lies whether they are there.
  (* ram_style = "block", no_rw_check *) logic [RowW-1:0] row [2**AddrW];
  logic [RowW-1:0]                 row_q, read;
  logic [COLUMNS-1:0][SCORE_W-1:0] score, read_score;
  logic [COLUMNS-1:0]              mark, read_mark;
  logic                            fetched, read_last;
  logic [AddrW-1:0]                addr_q;

  // With its sign bit inverted a score is unsigned, in the same order and at the same distances.
  for (genvar i = 0; i < COLUMNS; i++) begin : g_score
    assign score[i] = {~score_i[SCORE_W*(i+1)-1], score_i[SCORE_W*i+:SCORE_W-1]};
    if (i == 0) begin : g_last
      assign mark[i] = last_i;
    end else begin : g_there
      assign mark[i] = ~last_i | (count_i > COUNT_W'(i));
    end
  end

  always_ff @(posedge clk_i) begin
    if (take) row[addr_q] <= {mark, score};
    if (step) row_q <= row[addr_q];
  end

  if (PIPELINED) begin : g_read
    logic [RowW-1:0] read_q;
    logic            fetched_q;

    always_ff @(posedge clk_i) begin
      if (step) begin
        read_q    <= row_q;
        fetched_q <= ~filling;
      end
    end
    assign read    = read_q;
    assign fetched = fetched_q;
  end else begin : g_direct
    assign read    = row_q;
    assign fetched = 1'b1;
  end

  assign {read_mark, read_score} = read;
  assign read_last               = read_mark[0];

  // ---- Control. ----
  //
  // Three stages follow the address: the score read, its distance, the result. `step` moves all of
  // them, and is low only while a result waits for ready_i. `emit` says that a result is due.
  logic read_valid_q, emit_q, emit_last_q, emit, emit_last;

  assign filling = state_q == Fill;
  assign step    = ready_i | ~valid_o;
  assign take    = valid_i & ready_o;
  assign ready_o = filling & ~emit_q & ~emit & ~valid_o; // what leaves needs the sum of its own row
  assign row_end = filling ? take & last_i : step & read_valid_q & read_last;

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
        valid_o <= emit;
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
      read_valid_q <= ~filling & fetched & ~(read_valid_q & read_last);
      emit_last_q  <= read_last;
      last_o       <= emit_last;
    end
  end

  // ---- The largest score that has just come. ----
  //
  // Of several columns it is found first, and kept for a clock. This delays nothing: the clock
  // between the last scores and the first that are read again is free.
  logic [SCORE_W-1:0] largest;
  logic               comparing, compare;

  if (COLUMNS == 1) begin : g_single
    logic unused_count;
    assign unused_count = ^count_i;

    assign comparing = filling;
    assign compare   = take;
    assign largest   = score[0];
  end else begin : g_several
    // A tree: node i holds the larger of nodes 2i and 2i + 1, and those from COLUMNS on the scores.
    logic [2*COLUMNS*SCORE_W-1:0] node;
    logic [SCORE_W-1:0]           even, odd, largest_q;
    logic                         compare_q;

    always_comb begin
      node = '0;
      for (int unsigned i = 0; i < COLUMNS; i++) begin
        if (i == 0 || mark[i]) node[SCORE_W*(COLUMNS+i)+:SCORE_W] = score[i];
      end
      for (int unsigned i = COLUMNS - 1; i > 0; i--) begin
        even = node[SCORE_W*(2*i)+:SCORE_W];
        odd  = node[SCORE_W*(2*i+1)+:SCORE_W];
        node[SCORE_W*i+:SCORE_W] = (even > odd) ? even : odd;
      end
    end

    always_ff @(posedge clk_i) begin
      compare_q <= rst_ni & take;
      largest_q <= node[SCORE_W+:SCORE_W];
    end
    assign comparing = compare_q;
    assign compare   = compare_q;
    assign largest   = largest_q;
  end

  // ---- Maximum and distance: one subtractor for both, in the first column. ----
  //
  // Its second operand is the score on its way in, or the one read. The choice costs no LUT: it
  // shares those of the carry chain, which have inputs to spare. A borrow means a new maximum.
  localparam int unsigned Unit  = WEIGHTS ? 9 : PRECISION; // fraction bits of a term
  localparam int unsigned FineW = FRACTION + 5;           // FRACTION + 4 of them fraction bits

  logic [SCORE_W-1:0]             max_q, compared;
  logic                           borrow;
  logic [COLUMNS-1:0]             far_q;
  logic [COLUMNS-1:0][BelowW-1:0] below_q;
  logic [COLUMNS-1:0][Unit:0]     term;

  always_ff @(posedge clk_i) begin
    if (!rst_ni || (row_end && state_q == Emit)) max_q <= '0; // the lowest score there is
    else if (compare && borrow) max_q <= compared;
  end

  for (genvar i = 0; i < COLUMNS; i++) begin : g_column
    logic [SCORE_W-1:0] below;
    logic               far, absent;

    if (i == 0) begin : g_first
      assign compared        = comparing ? largest : read_score[i];
      assign {borrow, below} = {1'b0, max_q} - {1'b0, compared};
      assign absent          = 1'b0;
    end else begin : g_further
      assign below  = max_q - read_score[i];
      assign absent = ~read_mark[i];
    end

    // Farther than any result reaches is kept in one bit.
    if (SCORE_W > BelowW) begin : g_far
      assign far = |below[SCORE_W-1:BelowW];
    end else begin : g_near
      assign far = 1'b0;
    end

    always_ff @(posedge clk_i) begin
      if (step) begin
        below_q[i] <= BelowW'(below);
        far_q[i]   <= far | absent;
      end
    end

    logic [WholeW-1:0] whole;
    assign whole = below_q[i][BelowW-1:FRACTION];

    // (2 - f) in units of 2^-FRACTION, from the bits of f; a table for the synthesiser to fold.
    logic [FRACTION+1:0] ramp;
    if (FRACTION > 0) begin : g_ramp
      assign ramp = (FRACTION + 2)'(2 << FRACTION) - (FRACTION + 2)'(below_q[i][FRACTION-1:0]);
    end else begin : g_step
      assign ramp = 2'd2;
    end

    // The octave's shift goes right by 0 to 3 first, where 2 - f still has few bits, and by
    // multiples of 4 afterwards: a LUT chooses among four of the one and two of the other, and
    // nothing is wide.
    logic [FineW-1:0] fine;
    logic [Unit:0]    wide;

    assign fine = {ramp, 3'b000} >> whole[1:0];
    if (Unit >= FRACTION + 4) begin : g_left
      assign wide = (Unit + 1)'(fine) << (Unit - FRACTION - 4);
    end else begin : g_right
      assign wide = (Unit + 1)'(fine >> (FRACTION + 4 - Unit));
    end
    assign term[i] = far_q[i] ? '0 : wide >> {whole[WholeW-1:2], 2'b00};
  end

  // ---- One more stage between a term and its weight. ----
  logic [COLUMNS-1:0][Unit:0] due;

  if (PIPELINED) begin : g_due
    logic [COLUMNS*(Unit+1)-1:0] due_q;
    logic                        valid_q, last_q;

    always_ff @(posedge clk_i) begin
      if (!rst_ni) valid_q <= 1'b0;
      else if (step) valid_q <= emit_q;
    end

    always_ff @(posedge clk_i) begin
      if (step) begin
        due_q  <= term;
        last_q <= emit_last_q;
      end
    end
    assign due       = due_q;
    assign emit      = valid_q;
    assign emit_last = last_q;
  end else begin : g_at_once
    assign due       = term;
    assign emit      = emit_q;
    assign emit_last = emit_last_q;
  end

  if (WEIGHTS) begin : g_weights
    // ---- The weights rounded to 1/256, and their sum. ----
    logic [COLUMNS*8-1:0] weight;
    logic [SUM_W-1:0]     more;

    for (genvar i = 0; i < COLUMNS; i++) begin : g_weight
      logic [8:0] rounded;

      assign rounded        = 9'((due[i] + 1'b1) >> 1);
      assign weight[8*i+:8] = rounded[8] ? '1 : rounded[7:0];
    end

    always_comb begin
      more = '0;
      for (int unsigned i = 0; i < COLUMNS; i++) more = more + SUM_W'(weight[8*i+:8]);
    end

    always_ff @(posedge clk_i) begin
      if (take) sum_o <= '0;
      else if (step && emit) sum_o <= sum_o + more;
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
      else if (sum_valid_q) left_q <= left_q - (PRECISION + Growth + 1)'(due[0]);
      log_q <= log + Half; // the sum stands still long before the first code needs it
    end

    assign code = (TotalW - FRACTION)'((TotalW'(below_q[0]) + TotalW'(log_q)) >> FRACTION);

    always_ff @(posedge clk_i) begin
      if (step) begin
        value_o <= (far_q[0] || |code[TotalW-FRACTION-1:BITS]) ? '1 : code[BITS-1:0];
      end
    end
    assign sum_o = '0;
  end
endmodule
