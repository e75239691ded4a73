// The residual stream's beginning: a row of the token table plus a row of positions, GROUPS
// elements a clock, four clocks after embed_i.

module embedding #(
  parameter int unsigned WIDTH  = 128,
  parameter int unsigned GROUPS = 1,
  parameter int unsigned BLOCK  = 64,
  parameter int unsigned VOCAB  = 97,
  // First files of what the tables hold for good, with a single group (memory.sv); 0: no files.
  parameter int unsigned INIT_TOKEN    = 0,
  parameter int unsigned INIT_POSITION = 0,
  // Derived; not to be set.
  parameter int unsigned POSITION_W = $clog2(BLOCK),
  parameter int unsigned BEAT_W     = $clog2(WIDTH / GROUPS)
) (
  input  logic                   clk_i,
  input  logic                   rst_ni,
  input  logic [3:0]             shift_i,

  input  logic [GROUPS-1:0]      load_token_i,
  input  logic [GROUPS-1:0]      load_position_i,
  input  logic [19:0]            load_row_i,
  input  logic [7:0]             load_data_i,

  input  logic                   embed_i,
  input  logic [7:0]             token_i,
  input  logic [POSITION_W-1:0]  position_i,
  input  logic [BEAT_W-1:0]      beat_i,
  output logic                   valid_o,
  output logic [16*GROUPS-1:0]   value_o
);
  // Rows start at multiples of a power of two, so that an address is two numbers side by side.
  localparam int unsigned TokenRows    = VOCAB << BEAT_W;
  localparam int unsigned PositionRows = BLOCK << BEAT_W;
  localparam int unsigned TokenW       = $clog2(TokenRows);
  localparam int unsigned PositionW    = $clog2(PositionRows);

  localparam int unsigned Block        = 2048; // rows of a block of memory

  logic [TokenW-1:0] token_row;
  logic [1:0]        read_q;
  logic              sum_q;

  assign token_row = TokenW'({token_i, beat_i});

  for (genvar g = 0; g < GROUPS; g++) begin : g_group
    logic signed [7:0] token, position;
    logic signed [8:0] both_q;

    deep_memory #(
      .WIDTH(8), .DEPTH(TokenRows), .PART((INIT_TOKEN == 0) ? TokenRows : Block),
      .INIT(INIT_TOKEN)
    ) u_token (
      .clk_i,
      .write_i     (load_token_i[g]),
      .write_row_i (load_row_i[TokenW-1:0]),
      .write_data_i(load_data_i),
      .read_i      (embed_i),
      .read_row_i  (token_row),
      .read_data_o (token)
    );

    deep_memory #(
      .WIDTH(8), .DEPTH(PositionRows), .PART((INIT_POSITION == 0) ? PositionRows : Block),
      .INIT(INIT_POSITION)
    ) u_position (
      .clk_i,
      .write_i     (load_position_i[g]),
      .write_row_i (load_row_i[PositionW-1:0]),
      .write_data_i(load_data_i),
      .read_i      (embed_i),
      .read_row_i  ({position_i, beat_i}),
      .read_data_o (position)
    );

    always_ff @(posedge clk_i) begin
      if (sum_q) both_q <= 9'(token) + 9'(position);
    end
    assign value_o[16*g +: 16] = 16'(both_q) << shift_i;
  end

  logic unused;
  assign unused = ^load_row_i;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) {valid_o, sum_q, read_q} <= '0;
    else {valid_o, sum_q, read_q} <= {sum_q, read_q, embed_i};
  end
endmodule
