// Eight lanes that skip zeros, with the memories that feed them.
//
// Four lanes' entries of one beat are a row of one memory: with eight bits of weight, nine of index
// and the mark of a row's end, 72 bits, which is the width of an UltraRAM. Rows are read one after
// another; where each lane's entries lie is for the image to say (lib/silicon/sparse.py). A row is
// loaded in two words, its lower half first.
//
// Keys, values and the query stand as in the dense core: attention skips nothing.

module sparse_bank #(
  parameter int unsigned WEIGHT_W   = 8,
  parameter int unsigned INDEX_W    = 9,
  parameter int unsigned ENTRIES    = 4096, // of a lane
  parameter int unsigned ROWS       = 16,
  parameter int unsigned CACHE_ROWS = 512,
  parameter int unsigned STAGE_ROWS = 1,
  parameter int unsigned WAYS       = 4, // of eight lanes, those that leave at a time
  parameter bit          ULTRA      = 1'b0,
  // Derived; not to be set.
  parameter int unsigned ENTRY_W       = WEIGHT_W + INDEX_W + 1,
  parameter int unsigned ENTRIES_W     = $clog2(ENTRIES),
  parameter int unsigned CACHE_ROW_W   = $clog2(CACHE_ROWS),
  parameter int unsigned STAGE_ROW_W   = (STAGE_ROWS > 1) ? $clog2(STAGE_ROWS) : 1,
  parameter int unsigned COPY_ROW_W    = INDEX_W - 1,
  parameter int unsigned ROW_W         = $clog2(ROWS)
) (
  input  logic                   clk_i,
  input  logic                   start_i,

  // Entries of the lower and of the upper four lanes.
  input  logic [1:0]             load_entry_i,
  input  logic [ENTRIES_W-1:0]   load_row_i,
  input  logic [4*ENTRY_W-1:0]   load_data_i,

  // Eight requantised bytes: keys or values for the cache, or a query.
  input  logic                   write_cache_i,
  input  logic [CACHE_ROW_W-1:0] write_cache_row_i,
  input  logic                   write_stage_i,
  input  logic [STAGE_ROW_W-1:0] write_stage_row_i,
  input  logic [63:0]            write_data_i,

  // Four bytes of the activations, for all lanes.
  input  logic                   copy_write_i,
  input  logic [COPY_ROW_W-1:0]  copy_row_i,
  input  logic [31:0]            copy_data_i,

  // Clock 2: entries are read. Clock 4: they are there, and the cache is read. Clock 5: the query.
  input  logic                   read_entry_i,
  input  logic [ENTRIES_W-1:0]   entry_row_i,
  input  logic                   read_copy_i,
  input  logic                   narrow_i,
  input  logic                   read_cache_i,
  input  logic [CACHE_ROW_W-1:0] cache_row_i,
  input  logic                   read_stage_i,
  input  logic [STAGE_ROW_W-1:0] stage_row_i,

  // Clock 6.
  input  logic                   operand_load_i,
  input  logic                   operand_staged_i,
  input  logic                   operand_mix_i,
  input  logic [7:0]             mix_i,
  input  logic                   factor_load_i,
  input  logic                   factor_cache_i,

  // Clocks 7 and 8, and 8 to 10 for the tree.
  input  logic                   multiply_i,
  input  logic                   accumulate_i,
  input  logic                   close_i,
  input  logic [2:0]             add_i,
  output logic [31:0]            dot_o,

  // A row's sums of the WAYS lanes that leave next, until next_i.
  input  logic [ROW_W-1:0]       row_i,
  input  logic                   next_i,
  output logic [24*WAYS-1:0]     sums_o
);
  logic [8*ENTRY_W-1:0] entries;
  logic [63:0]          cached;

  for (genvar i = 0; i < 2; i++) begin : g_entries
    memory #(.WIDTH(4 * ENTRY_W), .DEPTH(ENTRIES), .ULTRA(ULTRA)) u_entries (
      .clk_i,
      .write_i     (load_entry_i[i]),
      .write_row_i (load_row_i),
      .write_data_i(load_data_i),
      .read_i      (read_entry_i),
      .read_row_i  (entry_row_i),
      .read_data_o (entries[4*ENTRY_W*i +: 4*ENTRY_W])
    );
  end

  memory #(.WIDTH(64), .DEPTH(CACHE_ROWS), .ULTRA(ULTRA)) u_cache (
    .clk_i,
    .write_i     (write_cache_i),
    .write_row_i (write_cache_row_i),
    .write_data_i,
    .read_i      (read_cache_i),
    .read_row_i  (cache_row_i),
    .read_data_o (cached)
  );

  // So few queries that they are LUT RAM.
  logic [63:0] stage [STAGE_ROWS];
  logic [63:0] staged_q;

  always_ff @(posedge clk_i) begin
    if (write_stage_i) stage[write_stage_row_i] <= write_data_i;
    if (read_stage_i) staged_q <= stage[stage_row_i];
  end

  logic [8*32-1:0]                products;
  logic [8/WAYS-1:0][24*WAYS-1:0] sums;
  logic [$clog2(8/WAYS)-1:0]      slot_q;

  // After the last lanes have left, the first ones are next.
  always_ff @(posedge clk_i) begin
    if (start_i) slot_q <= '0;
    else if (next_i) slot_q <= slot_q + 1'b1;
  end
  assign sums_o = sums[slot_q];

  for (genvar i = 0; i < 8; i++) begin : g_lane
    sparse_lane #(.WEIGHT_W(WEIGHT_W), .INDEX_W(INDEX_W), .ROWS(ROWS)) u_lane (
      .clk_i,
      .start_i,
      .copy_write_i,
      .copy_row_i,
      .copy_data_i,
      .read_i      (read_copy_i),
      .narrow_i,
      .entry_i     (entries[ENTRY_W*i +: ENTRY_W]),
      .operand_load_i,
      .operand_staged_i,
      .operand_mix_i,
      .staged_i    (staged_q[8*i +: 8]),
      .mix_i,
      .factor_load_i,
      .factor_cache_i,
      .cached_i    (cached[8*i +: 8]),
      .multiply_i,
      .accumulate_i,
      .close_i,
      .product_o   (products[32*i +: 32]),
      .row_i,
      .sum_o       (sums[i/WAYS][24*(i%WAYS) +: 24])
    );
  end

  adder_tree #(.INPUTS(8), .TERM_W(17)) u_tree (
    .clk_i,
    .advance_i(add_i),
    .terms_i  (products),
    .sum_o    (dot_o)
  );
endmodule
