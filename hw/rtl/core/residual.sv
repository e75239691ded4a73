// The residual stream: what is added to it, how large it is, its way back as a normalised vector.
//
// Sums of the second dataflow arrive GROUPS a clock. All slices but the last leave theirs in the
// memory of partial sums. What the last one completes is requantised, added to the stream and
// squared on its way into memory, so that the sum of squares is there soon after the last element.
//
// For a pass of the first dataflow the stream is read again, and normalised again on its way: the
// requantiser for that costs less than a memory for the vector would.
//
// Rows are GROUPS elements. Nothing is ever read and written at once but different rows.

module residual #(
  parameter int unsigned LAYERS = 2,
  parameter int unsigned WIDTH  = 128,
  parameter int unsigned GROUPS = 1,
  // Files of what the first group's parameters and the table hold at power-up (memory.sv); 0: none.
  parameter int unsigned INIT_PARAMETERS = 0,
  parameter int unsigned INIT_RSQRT      = 0,
  parameter bit          SPLIT           = 1'b0, // see requantise.sv
  // Derived; not to be set.
  parameter int unsigned ROWS           = WIDTH / GROUPS,
  parameter int unsigned ROW_W          = $clog2(ROWS),
  parameter int unsigned PARAMETER_ROWS = 2 * LAYERS * ROWS
) (
  input  logic                 clk_i,
  input  logic                 rst_ni,

  input  logic [GROUPS-1:0]    load_parameter_i,
  input  logic                 load_rsqrt_i,
  input  logic [19:0]          load_row_i,
  input  logic [39:0]          load_data_i,

  input  logic [31:0]          epsilon_i,
  input  logic [5:0]           rsqrt_shift_i,

  // A new stream.
  input  logic                 start_i,
  input  logic                 embed_valid_i,
  input  logic [16*GROUPS-1:0] embed_i,

  // The first dataflow: a row asked for in clock 0, its normalised elements in clock 6.
  input  logic                 norm_i,
  input  logic [ROW_W-1:0]     norm_row_i,
  output logic [8*GROUPS-1:0]  norm_o,
  output logic                 norm_ready_o, // may be asked for from the next clock on

  // The second dataflow: sum_soon_i, open_i and close_i come two clocks before their sums.
  input  logic                 sum_soon_i,
  input  logic                 open_i,
  input  logic                 close_i,
  input  logic [5:0]           shift_i,
  input  logic [32*GROUPS-1:0] sum_i
);
  localparam int unsigned     ParameterW = $clog2(PARAMETER_ROWS);
  localparam logic [ROW_W-1:0] LastRow   = ROW_W'(ROWS - 1);

  // ---- Clocks of a sum: soon[0] when it is announced, soon[2] when it is there. ----
  logic [3:0]            soon;
  logic [2:0]            soon_q;
  logic [6:0]            done;   // the same of complete sums
  logic [5:0]            done_q;
  logic [1:0]            open_q;
  logic [ROW_W-1:0]      partial_row_q, partial_write_q, old_row_q, write_row_q;
  logic [ParameterW-1:0] parameter_row_q;
  logic                  new_valid_q, new_last_q;

  assign soon = {soon_q, sum_soon_i};
  assign done = {done_q, sum_soon_i & close_i};

  always_ff @(posedge clk_i) begin
    if (!rst_ni) {soon_q, done_q} <= '0;
    else {soon_q, done_q} <= {soon[2:0], done[5:0]};
    open_q <= {open_q[0], open_i};
  end

  // Rows come in order, so each place counts its own instead of passing them on.
  always_ff @(posedge clk_i) begin
    if (start_i) begin
      partial_row_q   <= '0;
      partial_write_q <= '0;
      old_row_q       <= '0;
      parameter_row_q <= '0;
    end else begin
      if (soon[0]) partial_row_q <= (partial_row_q == LastRow) ? '0 : partial_row_q + 1'b1;
      if (soon[3]) partial_write_q <= (partial_write_q == LastRow) ? '0 : partial_write_q + 1'b1;
      if (done[6]) old_row_q <= (old_row_q == LastRow) ? '0 : old_row_q + 1'b1;
      if (done[1]) parameter_row_q <= parameter_row_q + 1'b1;
    end
  end

  // Written rows are counted from the embedding on, which begins after start_i.
  assign new_last_q = write_row_q == LastRow;
  always_ff @(posedge clk_i) begin
    if (start_i) write_row_q <= '0;
    else if (new_valid_q) write_row_q <= new_last_q ? '0 : write_row_q + 1'b1;
  end

  // ---- The norm's two numbers. ----
  logic [7:0]  index;
  logic [5:0]  halves, norm_shift_q;
  logic [15:0] rsqrt;

  logic [16*GROUPS-1:0] new_q, old;
  logic [GROUPS-1:0]    delta_valid, norm_valid, delta_accepted, norm_accepted;
  logic                 accepted, unused;
  assign unused = ^{accepted, delta_accepted, norm_accepted, delta_valid, norm_valid, load_row_i,
                    sum_i};

  norm_statistics #(.WORDS(GROUPS)) u_statistics (
    .clk_i,
    .rst_ni,
    .valid_i   (new_valid_q),
    .ready_o   (accepted),
    .residual_i(new_q),
    .last_i    (new_last_q),
    .epsilon_i,
    .valid_o   (norm_ready_o),
    .ready_i   (1'b1),
    .index_o   (index),
    .halves_o  (halves)
  );

  memory #(.WIDTH(16), .DEPTH(256), .INIT(INIT_RSQRT)) u_rsqrt (
    .clk_i,
    .write_i     (load_rsqrt_i),
    .write_row_i (load_row_i[7:0]),
    .write_data_i(load_data_i[15:0]),
    .read_i      (norm_ready_o),
    .read_row_i  (index),
    .read_data_o (rsqrt)
  );

  always_ff @(posedge clk_i) begin
    if (norm_ready_o) norm_shift_q <= halves + rsqrt_shift_i;
  end

  // ---- The stream. One port reads: no pass asks for a row while results are added. ----
  memory #(.WIDTH(16 * GROUPS), .DEPTH(ROWS)) u_stream (
    .clk_i,
    .write_i     (new_valid_q),
    .write_row_i (write_row_q),
    .write_data_i(new_q),
    .read_i      (norm_i | done[6]),
    .read_row_i  (norm_i ? norm_row_i : old_row_q),
    .read_data_o (old)
  );

  logic [1:0] norm_q;
  always_ff @(posedge clk_i) begin
    if (!rst_ni) norm_q <= '0;
    else norm_q <= {norm_q[0], norm_i};
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) new_valid_q <= 1'b0;
    else new_valid_q <= embed_valid_i | delta_valid[0];
  end

  // ---- A group's sum, its requantiser, and the way back. ----
  for (genvar g = 0; g < GROUPS; g++) begin : g_group
    logic [23:0]        partial, whole_q, sum;
    logic [39:0]        entry; // bias, multiplier
    logic signed [15:0] delta;
    logic signed [16:0] moved;

    memory #(.WIDTH(24), .DEPTH(ROWS)) u_partial (
      .clk_i,
      .write_i     (soon[3]),
      .write_row_i (partial_write_q),
      .write_data_i(whole_q),
      .read_i      (soon[0]),
      .read_row_i  (partial_row_q),
      .read_data_o (partial)
    );

    memory #(
      .WIDTH(40), .DEPTH(PARAMETER_ROWS), .INIT((INIT_PARAMETERS == 0) ? 0 : INIT_PARAMETERS + g)
    ) u_parameters (
      .clk_i,
      .write_i     (load_parameter_i[g]),
      .write_row_i (load_row_i[ParameterW-1:0]),
      .write_data_i(load_data_i),
      .read_i      (done[1]),
      .read_row_i  (parameter_row_q),
      .read_data_o (entry)
    );

    assign sum = sum_i[32*g +: 24];
    always_ff @(posedge clk_i) begin
      if (soon[2]) whole_q <= sum + (open_q[1] ? 24'd0 : partial);
    end

    requantise #(.ACC_W(24), .OUT_W(16), .BIAS(1'b1), .SPLIT(SPLIT)) u_requantise (
      .clk_i,
      .rst_ni,
      .valid_i     (done[3]),
      .ready_o     (delta_accepted[g]),
      .acc_i       (whole_q),
      .bias_i      (entry[39:16]),
      .multiplier_i(entry[15:0]),
      .shift_i,
      .valid_o     (delta_valid[g]),
      .ready_i     (1'b1),
      .value_o     (delta)
    );

    assign moved = 17'(delta) + 17'($signed(old[16*g +: 16]));
    always_ff @(posedge clk_i) begin
      if (embed_valid_i) new_q[16*g +: 16] <= embed_i[16*g +: 16];
      else if (delta_valid[g]) begin
        new_q[16*g +: 16] <= (moved[16] == moved[15]) ? moved[15:0] : {moved[16], {15{~moved[16]}}};
      end
    end

    requantise #(.ACC_W(16), .OUT_W(8), .BIAS(1'b0)) u_normalise (
      .clk_i,
      .rst_ni,
      .valid_i     (norm_q[1]),
      .ready_o     (norm_accepted[g]),
      .acc_i       (old[16*g +: 16]),
      .bias_i      ('0),
      .multiplier_i(rsqrt),
      .shift_i     (norm_shift_q),
      .valid_o     (norm_valid[g]),
      .ready_i     (1'b1),
      .value_o     (norm_o[8*g +: 8])
    );
  end
endmodule
