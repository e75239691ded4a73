// A memory of many blocks, in parts of PART rows: read data leave three clocks after their address.
//
// The data of every part are registered before one of them is chosen. Blocks lie where a device has
// them, far from one another, and are slow to answer: to choose first would join the two.
//
// With INIT each part has a file of its own, memory<INIT>.hex and the following ones (memory.sv).

module deep_memory #(
  parameter int unsigned WIDTH = 8,
  parameter int unsigned DEPTH = 4096,
  parameter int unsigned PART  = DEPTH,
  parameter bit          ULTRA = 1'b0,
  parameter int unsigned INIT  = 0,
  // Derived; not to be set.
  parameter int unsigned ROW_W = (DEPTH > 1) ? $clog2(DEPTH) : 1
) (
  input  logic             clk_i,

  input  logic             write_i,
  input  logic [ROW_W-1:0] write_row_i,
  input  logic [WIDTH-1:0] write_data_i,

  input  logic             read_i,
  input  logic [ROW_W-1:0] read_row_i,
  output logic [WIDTH-1:0] read_data_o
);
  localparam int unsigned Parts = (DEPTH + PART - 1) / PART;
  localparam int unsigned WithinW = (PART > 1) ? $clog2(PART) : 1;
  localparam int unsigned PartW = (Parts > 1) ? $clog2(Parts) : 1;

  logic [WIDTH*Parts-1:0] data;
  logic [PartW-1:0]       write_part, read_part, part_q, part_out_q;
  logic [1:0]             read_q;

  if (Parts > 1) begin : g_parts
    assign write_part = write_row_i[ROW_W-1:WithinW];
    assign read_part  = read_row_i[ROW_W-1:WithinW];
  end else begin : g_part
    assign write_part = '0;
    assign read_part  = '0;
  end

  for (genvar p = 0; p < Parts; p++) begin : g_memory
    localparam int unsigned Rows = (p == Parts - 1) ? DEPTH - (p * PART) : PART;
    localparam int unsigned RowsW = (Rows > 1) ? $clog2(Rows) : 1;

    memory #(
      .WIDTH(WIDTH), .DEPTH(Rows), .ULTRA(ULTRA), .INIT((INIT == 0) ? 0 : INIT + p)
    ) u_part (
      .clk_i,
      .write_i     (write_i & (write_part == PartW'(p))),
      .write_row_i (write_row_i[RowsW-1:0]),
      .write_data_i,
      .read_i,
      .read_row_i  (read_row_i[RowsW-1:0]),
      .read_data_o (data[WIDTH*p +: WIDTH])
    );
  end

  always_ff @(posedge clk_i) begin
    read_q <= {read_q[0], read_i};
    if (read_i) part_q <= read_part;
    if (read_q[0]) part_out_q <= part_q;
    if (read_q[1]) read_data_o <= data[WIDTH*part_out_q +: WIDTH];
  end
endmodule
