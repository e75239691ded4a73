// The weights of the blocks and of the head: a row of each lane's next weight a clock.
//
// Weights are read at consecutive rows, in the order in which load words put them. The head's have
// a memory of their own, since blocks come in powers of two: a few rows more would double the
// large one.
//
// Eight lanes of a group share a memory, as wide as memory blocks are, and words to load walk from
// one to the next, a register each: a bus as wide as the core would be the longest of its wires.
// With INIT both memories hold a model from power-up on and are never written. Then nothing keeps
// the eights of lanes apart, and lanes whose width divides no block share blocks with others.

module weights #(
  parameter int unsigned EIGHTS    = 8, // of lanes, group after group
  parameter int unsigned WEIGHT_W  = 8,
  parameter int unsigned ROWS      = 1024,
  parameter int unsigned HEAD_ROWS = 256,
  parameter bit          ULTRA     = 1'b0,
  parameter bit          INIT      = 1'b0, // files from 1000 on and, of the head, from 1100 on
  // Derived; not to be set.
  parameter int unsigned WIDTH      = 8 * WEIGHT_W * EIGHTS,
  parameter int unsigned ROW_W      = $clog2(ROWS),
  parameter int unsigned HEAD_ROW_W = $clog2(HEAD_ROWS)
) (
  input  logic                  clk_i,
  input  logic                  rst_ni,

  // A word of one bank, which is an eight of lanes.
  input  logic                  load_i,
  input  logic                  load_head_i,
  input  logic [7:0]            load_bank_i,
  input  logic [19:0]           load_row_i,
  input  logic [63:0]           load_data_i,

  // Three clocks later what is read.
  input  logic                  read_i,
  input  logic [ROW_W-1:0]      row_i,
  output logic [WIDTH-1:0]      weights_o,
  input  logic                  read_head_i,
  input  logic [HEAD_ROW_W-1:0] head_row_i,
  output logic [WIDTH-1:0]      head_o
);
  localparam int unsigned Block = 2048; // rows that a block of memory has when it is a byte wide

  if (INIT) begin : g_fixed
    deep_memory #(.WIDTH(WIDTH), .DEPTH(ROWS), .PART(Block), .INIT(1000)) u_weights (
      .clk_i,
      .write_i     (1'b0),
      .write_row_i ('0),
      .write_data_i('0),
      .read_i,
      .read_row_i  (row_i),
      .read_data_o (weights_o)
    );

    deep_memory #(.WIDTH(WIDTH), .DEPTH(HEAD_ROWS), .PART(Block), .INIT(1100)) u_head (
      .clk_i,
      .write_i     (1'b0),
      .write_row_i ('0),
      .write_data_i('0),
      .read_i      (read_head_i),
      .read_row_i  (head_row_i),
      .read_data_o (head_o)
    );

    logic unused;
    assign unused = ^{rst_ni, load_i, load_head_i, load_bank_i, load_row_i, load_data_i};
  end else begin : g_loaded
    localparam int unsigned WordW = 8 * WEIGHT_W;

    localparam int unsigned StepW = 8 + 20 + 64; // bank, row, data

    logic [EIGHTS:0]             load, load_head;
    logic [StepW*(EIGHTS+1)-1:0] steps;

    assign load[0]           = load_i;
    assign load_head[0]      = load_head_i;
    assign steps[0 +: StepW] = {load_bank_i, load_row_i, load_data_i};

    for (genvar e = 0; e < EIGHTS; e++) begin : g_eight
      logic        load_q, load_head_q, here;
      logic [7:0]  bank_q;
      logic [19:0] row_q;
      logic [63:0] data_q;

      always_ff @(posedge clk_i) begin
        if (!rst_ni) {load_q, load_head_q} <= '0;
        else {load_q, load_head_q} <= {load[e], load_head[e]};
      end

      always_ff @(posedge clk_i) begin
        if (load[e] || load_head[e]) {bank_q, row_q, data_q} <= steps[StepW*e +: StepW];
      end

      assign load[e+1]                   = load_q;
      assign load_head[e+1]              = load_head_q;
      assign steps[StepW*(e+1) +: StepW] = {bank_q, row_q, data_q};
      assign here                        = bank_q == 8'(e);

      deep_memory #(.WIDTH(WordW), .DEPTH(ROWS), .ULTRA(ULTRA)) u_weights (
        .clk_i,
        .write_i     (load_q & here),
        .write_row_i (row_q[ROW_W-1:0]),
        .write_data_i(data_q[WordW-1:0]),
        .read_i,
        .read_row_i  (row_i),
        .read_data_o (weights_o[WordW*e +: WordW])
      );

      deep_memory #(.WIDTH(WordW), .DEPTH(HEAD_ROWS)) u_head (
        .clk_i,
        .write_i     (load_head_q & here),
        .write_row_i (row_q[HEAD_ROW_W-1:0]),
        .write_data_i(data_q[WordW-1:0]),
        .read_i      (read_head_i),
        .read_row_i  (head_row_i),
        .read_data_o (head_o[WordW*e +: WordW])
      );
    end

    // Nothing is behind the last ones.
    logic unused;
    assign unused = ^{load[EIGHTS], load_head[EIGHTS], steps[StepW*EIGHTS +: StepW]};
  end
endmodule
