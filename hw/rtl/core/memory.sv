// A memory with one port that writes and one that reads, and the read data's two registers.
//
// The data of a read leaves two clocks after its address, one clock without OUTPUT: the first
// register is the memory block's own, and block and ultra RAM are slow to give it out, so that a
// second one, next to the block or in it, is what lets the clock be fast.
//
// A row that is read in the clock in which it is written may give anything: no user does that.
// Promised to Yosys by no_rw_check, which would otherwise compare addresses and hold the data back
// in logic. ULTRA asks for UltraRAM, 4,096 rows of 72 bits a block, where the device has it.
//
// What the memory holds at power-up is unknown. With INIT it holds for good what the file
// memory<INIT>.hex says; it is then block RAM, whose contents tools can exchange in a routed
// design.

module memory #(
  parameter int unsigned WIDTH  = 8,
  parameter int unsigned DEPTH  = 256,
  parameter bit          OUTPUT = 1'b1,
  parameter bit          ULTRA  = 1'b0,
  parameter int unsigned INIT   = 0, // of four digits; 0: no file
  // Derived; not to be set.
  parameter int unsigned ROW_W  = (DEPTH > 1) ? $clog2(DEPTH) : 1
) (
  input  logic             clk_i,

  input  logic             write_i,
  input  logic [ROW_W-1:0] write_row_i,
  input  logic [WIDTH-1:0] write_data_i,

  input  logic             read_i,
  input  logic [ROW_W-1:0] read_row_i,
  output logic [WIDTH-1:0] read_data_o
);
  (* no_rw_check, ram_style = ULTRA ? "ultra" : (INIT != 0) ? "block" : "auto" *)
  logic [WIDTH-1:0] rows [DEPTH];
  logic [WIDTH-1:0] data_q;
  logic             unused; // by a simulator
  assign unused = ULTRA;

  if (INIT != 0) begin : g_init
    localparam logic [8*14-1:0] File = {
      "memory", 8'(48 + (INIT / 1000)), 8'(48 + ((INIT / 100) % 10)), 8'(48 + ((INIT / 10) % 10)),
      8'(48 + (INIT % 10)), ".hex"
    };
    initial $readmemh(File, rows);

    logic unused_port;
    assign unused_port = ^{write_i, write_row_i, write_data_i};
  end else begin : g_write
    always_ff @(posedge clk_i) begin
      if (write_i) rows[write_row_i] <= write_data_i;
    end
  end

  always_ff @(posedge clk_i) begin
    if (read_i) data_q <= rows[read_row_i];
  end

  if (OUTPUT) begin : g_output
    logic read_q;

    always_ff @(posedge clk_i) begin
      read_q <= read_i;
      if (read_q) read_data_o <= data_q;
    end
  end else begin : g_direct
    assign read_data_o = data_q;
  end
endmodule
