// Eight columns with the cache that feeds them, and with what their operands come from.
//
// Eight lanes of a group read one word of weights, and one of keys or values: memory blocks come 64
// to 72 bits wide, and addresses are spread to an eighth of the places. Results move up to a bank's
// first columns to be taken there: to choose among all columns would take wires from each of them.
//
// The clocks in the comments count from the beat's issue; core.sv has the whole timetable.

module bank #(
  parameter int unsigned GROUPS      = 1,
  parameter int unsigned WEIGHT_W    = 8,
  parameter int unsigned CACHE_ROWS  = 512,
  parameter int unsigned STAGE_ROWS  = 1,
  parameter int unsigned DRAIN       = 8,
  parameter bit          ULTRA       = 1'b0,
  // Derived; not to be set.
  parameter int unsigned CACHE_ROW_W  = $clog2(CACHE_ROWS),
  parameter int unsigned STAGE_ROW_W  = (STAGE_ROWS > 1) ? $clog2(STAGE_ROWS) : 1
) (
  input  logic                    clk_i,

  // Eight requantised bytes: keys or values for the cache, or operands for a later pass.
  input  logic [GROUPS-1:0]       write_cache_i,
  input  logic [CACHE_ROW_W-1:0]  write_cache_row_i,
  input  logic                    write_stage_i,
  input  logic [STAGE_ROW_W-1:0]  write_stage_row_i,
  input  logic [63:0]             write_data_i,

  // Clock 4: what is read.
  input  logic                    read_cache_i,
  input  logic [CACHE_ROW_W-1:0]  cache_row_i,

  // Clock 5: the operands of a pass of the second dataflow leave the stage.
  input  logic                    read_stage_i,
  input  logic [STAGE_ROW_W-1:0]  stage_row_i,

  // Clock 6: the operand, and which memory the factor comes from.
  input  logic                    operand_load_i,
  input  logic                    operand_staged_i,
  input  logic                    operand_mix_i,
  input  logic [8*GROUPS-1:0]     norm_i,   // bytes with a sign
  input  logic [8*GROUPS-1:0]     weight_i, // bytes without
  input  logic [8*WEIGHT_W*GROUPS-1:0] weights_i,
  input  logic [8*WEIGHT_W*GROUPS-1:0] head_i,
  input  logic                    factor_load_i,
  input  logic                    factor_cache_i,
  input  logic                    factor_head_i,

  // Clocks 7, 8 and 9, and 8 to 10 for the tree.
  input  logic                    multiply_i,
  input  logic                    accumulate_i,
  input  logic                    first_i,
  input  logic                    capture_i,
  input  logic [2:0]              add_i,
  output logic [32*GROUPS-1:0]    sum_o,

  // The results of the DRAIN columns that leave next, until next_i.
  input  logic                    next_i,
  output logic [24*DRAIN-1:0]     hold_o
);
  // ---- What the eight columns have in common, a group at a time. ----
  logic [64*GROUPS-1:0] factor;
  logic [9*GROUPS-1:0]  operand;

  for (genvar g = 0; g < GROUPS; g++) begin : g_group
    logic [8*WEIGHT_W-1:0] chosen;
    logic [63:0]           cached, extended, factor_q;

    memory #(.WIDTH(64), .DEPTH(CACHE_ROWS), .ULTRA(ULTRA)) u_cache (
      .clk_i,
      .write_i     (write_cache_i[g]),
      .write_row_i (write_cache_row_i),
      .write_data_i(write_data_i),
      .read_i      (read_cache_i),
      .read_row_i  (cache_row_i),
      .read_data_o (cached)
    );

    assign chosen = factor_head_i ? head_i[8*WEIGHT_W*g +: 8*WEIGHT_W]
                                  : weights_i[8*WEIGHT_W*g +: 8*WEIGHT_W];
    for (genvar i = 0; i < 8; i++) begin : g_extend
      assign extended[8*i +: 8] = 8'($signed(chosen[WEIGHT_W*i +: WEIGHT_W]));
    end

    always_ff @(posedge clk_i) begin
      if (factor_load_i) factor_q <= factor_cache_i ? cached : extended;
    end
    assign factor[64*g +: 64] = factor_q;

    // A weight of attention has no sign, an element of the normalised vector has one: nine bits.
    assign operand[9*g +: 9] = operand_mix_i ? {1'b0, weight_i[8*g +: 8]}
                                             : {norm_i[8*g+7], norm_i[8*g +: 8]};
  end

  // ---- Operands of the second dataflow: the same for every group. ----
  //
  // So few rows that they are LUT RAM.
  logic [63:0] stage [STAGE_ROWS];
  logic [63:0] staged_q;

  always_ff @(posedge clk_i) begin
    if (write_stage_i) stage[write_stage_row_i] <= write_data_i;
    if (read_stage_i) staged_q <= stage[stage_row_i];
  end

  // ---- The columns and the first three levels of the tree. ----
  logic [8*32*GROUPS-1:0] products; // group after group
  logic [24*(8+DRAIN)-1:0] holds;   // behind the last columns there is nothing

  for (genvar i = 0; i < 8; i++) begin : g_column
    logic [8*GROUPS-1:0]  factors;
    logic [32*GROUPS-1:0] product;

    for (genvar g = 0; g < GROUPS; g++) begin : g_wire
      assign factors[8*g +: 8]             = factor[64*g+8*i +: 8];
      assign products[32*(8*g+i) +: 32]    = product[32*g +: 32];
    end

    column #(.GROUPS(GROUPS)) u_column (
      .clk_i,
      .operand_load_i,
      .operand_staged_i,
      .operand_i (operand),
      .staged_i  (staged_q[8*i +: 8]),
      .multiply_i,
      .factor_i  (factors),
      .accumulate_i,
      .first_i,
      .capture_i,
      .next_i,
      .next_hold_i(holds[24*(i+DRAIN) +: 24]),
      .product_o  (product),
      .hold_o     (holds[24*i +: 24])
    );
  end

  assign hold_o                 = holds[24*DRAIN-1:0];
  assign holds[24*8 +: 24*DRAIN] = '0;

  for (genvar g = 0; g < GROUPS; g++) begin : g_tree
    adder_tree #(.INPUTS(8), .TERM_W(17)) u_tree (
      .clk_i,
      .advance_i(add_i),
      .terms_i  (products[256*g +: 256]),
      .sum_o    (sum_o[32*g +: 32])
    );
  end
endmodule
