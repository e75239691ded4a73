// One lane that skips zeros: its copy of the activations, its multiplier, its rows' sums.
//
// An entry is a weight that is not zero, the index of the input that it belongs to, and whether it
// is its row's last. The lane fetches that input from its own copy of the vector: no other lane
// wants the same one at the same time, so nothing can be broadcast but the filling of the copies.
//
// Rows are of any length, and a lane goes on with its next row when others are still busy with the
// one before: what counts is how many entries all of its rows have together. So each lane counts
// its own rows, and their sums wait in a few words of LUT RAM until the slowest lane has come to
// the same row. Then one address reads all lanes.
//
// Attention needs no entries. In Score the operand is the query's element, loaded once, and the
// product leaves for the adder tree; in Mix it is a weight of attention, and the sum is a row like
// any other, which ends when close_i says so.
//
// The clocks in the comments count from the beat's issue; sparse_core.sv has the whole timetable.
// Registers before and after the multiplication become those of a DSP slice. Nothing is reset but
// by the start of a token.

module sparse_lane #(
  parameter int unsigned WEIGHT_W  = 8,
  parameter int unsigned INDEX_W   = 9,
  parameter int unsigned ROWS      = 16, // sums that may wait, a power of two
  // Derived; not to be set.
  parameter int unsigned ENTRY_W    = WEIGHT_W + INDEX_W + 1,
  parameter int unsigned COPY_ROWS  = 1 << (INDEX_W - 1), // words of four bytes, two vectors
  parameter int unsigned COPY_ROW_W = INDEX_W - 1,
  parameter int unsigned ROW_W      = $clog2(ROWS)
) (
  input  logic                  clk_i,
  input  logic                  start_i, // of a token

  // The copy of the activations: the same words for every lane.
  input  logic                  copy_write_i,
  input  logic [COPY_ROW_W-1:0] copy_row_i,
  input  logic [31:0]           copy_data_i,

  // Clock 4: an entry, and which of the copy's two vectors it is for.
  input  logic                  read_i,
  input  logic                  narrow_i,
  input  logic [ENTRY_W-1:0]    entry_i, // last, index, weight

  // Clock 6: the operand, and what it is to be multiplied by.
  input  logic                  operand_load_i,
  input  logic                  operand_staged_i,
  input  logic                  operand_mix_i,
  input  logic [7:0]            staged_i,      // a byte with a sign
  input  logic [7:0]            mix_i,         // a byte without
  input  logic                  factor_load_i,
  input  logic                  factor_cache_i,
  input  logic [7:0]            cached_i,

  // Clocks 7 and 8; close_i is clock 8 of Mix' last beat.
  input  logic                  multiply_i,
  input  logic                  accumulate_i,
  input  logic                  close_i,
  output logic [31:0]           product_o,

  // A row that every lane has finished.
  input  logic [ROW_W-1:0]      row_i,
  output logic [23:0]           sum_o
);
  // ---- Clock 4 to 6: the input that the weight wants. ----
  logic [INDEX_W-1:0]       index;
  logic [31:0]              word;
  logic [7:0]               copied, weight;
  logic [1:0][1:0]          byte_q;   // of the word
  logic [1:0][WEIGHT_W-1:0] weight_q;
  logic [3:0]               last_q;   // clocks 5 to 8

  assign index = entry_i[WEIGHT_W +: INDEX_W];

  // The wide vector takes the lower half of the copy, the narrow ones the beginning of the upper.
  memory #(.WIDTH(32), .DEPTH(COPY_ROWS)) u_copy (
    .clk_i,
    .write_i     (copy_write_i),
    .write_row_i (copy_row_i),
    .write_data_i(copy_data_i),
    .read_i,
    .read_row_i  ({narrow_i, index[INDEX_W-1:2]}),
    .read_data_o (word)
  );

  always_ff @(posedge clk_i) begin
    byte_q   <= {byte_q[0], index[1:0]};
    weight_q <= {weight_q[0], entry_i[WEIGHT_W-1:0]};
    last_q   <= {last_q[2:0], entry_i[ENTRY_W-1] & read_i};
  end

  assign copied = word[8*byte_q[1] +: 8];
  assign weight = 8'($signed(weight_q[1]));

  // ---- Clock 6 to 8: multiply and add. ----
  logic signed [8:0]  operand_q;
  logic signed [7:0]  factor_q;
  logic signed [31:0] product_q; // 17 bits, and copies of the sign that cost a simulator nothing
  logic        [23:0] sum_q;
  logic               first_q, ends, ended_q;

  assign ends      = last_q[3] | close_i;
  assign product_o = product_q;

  always_ff @(posedge clk_i) begin
    if (operand_load_i) begin
      if (operand_staged_i) operand_q <= {staged_i[7], staged_i};
      else if (operand_mix_i) operand_q <= {1'b0, mix_i};
      else operand_q <= {copied[7], copied};
    end
    if (factor_load_i) factor_q <= factor_cache_i ? cached_i : weight;
    if (multiply_i) product_q <= 32'(operand_q) * 32'(factor_q);
  end

  // A lane that has come to the end of a matrix before the others gets entries of weight 0 that end
  // no row. The sum is then 0 or about to begin, which is all the same to what comes next.
  always_ff @(posedge clk_i) begin
    if (start_i) first_q <= 1'b1;
    else if (accumulate_i) first_q <= ends;
  end

  always_ff @(posedge clk_i) begin
    if (accumulate_i) begin
      if (first_q) sum_q <= product_q[23:0];
      else sum_q <= sum_q + product_q[23:0];
    end
  end

  // ---- Clock 9: the sums of rows, in a ring. ----
  logic [23:0]      sums [ROWS];
  logic [ROW_W-1:0] row_q;

  always_ff @(posedge clk_i) begin
    ended_q <= accumulate_i & ends;
    if (start_i) row_q <= '0;
    else if (ended_q) row_q <= row_q + 1'b1;
  end

  always_ff @(posedge clk_i) begin
    if (ended_q) sums[row_q] <= sum_q;
  end

  assign sum_o = sums[row_i];
endmodule
