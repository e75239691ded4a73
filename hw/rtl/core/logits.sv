// The logits' buffer: DRAIN enter a clock, one leaves, and with the last the index of the largest.
//
// It holds all logits of a token, so that a reader who stalls holds nothing up in the core but the
// next token, which waits until the buffer is empty (unread_o).

module logits #(
  parameter int unsigned VOCAB = 97,
  parameter int unsigned DRAIN = 8,
  // Rows that a token writes: whole passes, the last of them with logits beyond the vocabulary.
  parameter int unsigned ROWS  = 16
) (
  input  logic                clk_i,
  input  logic                rst_ni,

  input  logic                start_i, // of a token
  input  logic                valid_i,
  input  logic [16*DRAIN-1:0] value_i,
  output logic                unread_o,
  output logic                complete_o,

  output logic                logit_valid_o,
  input  logic                logit_ready_i,
  output logic [15:0]         logit_o,
  output logic                logit_last_o,
  output logic [7:0]          argmax_o
);
  localparam int unsigned RowW  = $clog2(ROWS + 1);
  localparam int unsigned BufferW = (ROWS > 1) ? $clog2(ROWS) : 1;
  localparam int unsigned PartW = (DRAIN > 1) ? $clog2(DRAIN) : 1;

  logic [RowW-1:0]     written_q, read_row_q;
  logic [PartW-1:0]    part_q;
  logic [7:0]          index_q;
  logic [16*DRAIN-1:0] row;
  logic                fetch, fetch_q, row_valid_q, step, move, last, done_q;

  // The last row of the last pass is the last one written.
  assign complete_o = written_q == RowW'(ROWS);

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      written_q <= '0;
      unread_o  <= 1'b0;
    end else begin
      if (start_i) written_q <= '0;
      else if (valid_i) written_q <= written_q + 1'b1;
      // The reader may be done before the last row comes, if that one is beyond the vocabulary.
      if (valid_i && written_q == '0) unread_o <= 1'b1;
      else if (logit_valid_o && logit_ready_i && logit_last_o) unread_o <= 1'b0;
    end
  end

  // ---- Reading: a row at a time, its parts one after another. ----
  assign step  = logit_ready_i | ~logit_valid_o;
  assign move  = row_valid_q & step;
  assign last  = index_q == 8'(VOCAB - 1);
  assign fetch = (read_row_q != written_q) & ~done_q & ~(move & last)
                 & ~fetch_q & (~row_valid_q | (move & (part_q == PartW'(DRAIN - 1))));

  memory #(.WIDTH(16 * DRAIN), .DEPTH(ROWS)) u_buffer (
    .clk_i,
    .write_i     (valid_i),
    .write_row_i (written_q[BufferW-1:0]),
    .write_data_i(value_i),
    .read_i      (fetch),
    .read_row_i  (read_row_q[BufferW-1:0]),
    .read_data_o (row)
  );

  always_ff @(posedge clk_i) begin
    if (!rst_ni || start_i) begin
      read_row_q  <= '0;
      fetch_q     <= 1'b0;
      row_valid_q <= 1'b0;
      part_q      <= '0;
      index_q     <= '0;
      done_q      <= 1'b0;
    end else begin
      if (move && last) done_q <= 1'b1;
      if (fetch) read_row_q <= read_row_q + 1'b1;
      fetch_q <= fetch;
      if (fetch_q) row_valid_q <= 1'b1;
      else if (move && (last || part_q == PartW'(DRAIN - 1))) row_valid_q <= 1'b0;
      if (move) begin
        part_q  <= (part_q == PartW'(DRAIN - 1)) ? '0 : part_q + 1'b1;
        index_q <= index_q + 1'b1;
      end
    end
  end

  // ---- The one that leaves next: chosen a clock before it is compared, as memory is slow. ----
  logic signed [15:0] next_q;
  logic [7:0]         next_index_q;
  logic               next_valid_q, next_first_q, next_last_q;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) {next_valid_q, logit_valid_o} <= '0;
    else if (step) {next_valid_q, logit_valid_o} <= {move, next_valid_q};
  end

  always_ff @(posedge clk_i) begin
    if (move) begin
      next_q       <= row[16*part_q +: 16];
      next_index_q <= index_q;
      next_first_q <= index_q == '0;
      next_last_q  <= last;
    end
  end

  // ---- The largest so far. Equal logits do not replace it: the lowest index stays. ----
  logic signed [15:0] most_q;
  logic               more;

  assign more = next_first_q | (next_q > most_q);

  always_ff @(posedge clk_i) begin
    if (step && next_valid_q) begin
      logit_o      <= next_q;
      logit_last_o <= next_last_q;
      if (more) begin
        most_q   <= next_q;
        argmax_o <= next_index_q;
      end
    end
  end
endmodule
