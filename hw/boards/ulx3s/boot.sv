// Loads what a bitstream cannot put where it belongs: at power-up, from a ROM that is block RAM.
//
// Large memories of the core have their contents from the bitstream. Settings, which are registers
// or LUT RAM, and the model's name do not: a tool that exchanges the contents of a routed design
// (ecpbram) reaches block RAM only. So the ROM holds records of three words, an address of the
// core's load port and the word for it, lowest half first. The record whose address is all ones is
// the last one, and its word is the model's name.
//
// Once that one is out nothing but a new power-up starts it again. Without INIT there is no ROM,
// and there are no records.

module boot #(
  parameter int unsigned INIT = 0 // file of the ROM (memory.sv)
) (
  input  logic        clk_i,
  input  logic        rst_ni,
  output logic        load_valid_o,
  output logic [31:0] load_address_o,
  output logic [63:0] load_data_o,
  output logic        name_valid_o // load_data_o is the name
);
  if (INIT != 0) begin : g_rom
    localparam int unsigned Rows = 512; // a block of 512 words of 36 bits
    localparam int unsigned RowW = $clog2(Rows);

    logic [RowW-1:0] row_q;
    logic [31:0]     word;
    logic [95:0]     record_q;
    logic [1:0]      part_q;
    logic            read_q, whole_q, done_q;

    memory #(.WIDTH(32), .DEPTH(Rows), .OUTPUT(1'b0), .INIT(INIT)) u_rom (
      .clk_i,
      .write_i     (1'b0),
      .write_row_i ('0),
      .write_data_i('0),
      .read_i      (1'b1),
      .read_row_i  (row_q),
      .read_data_o (word)
    );

    initial done_q = 1'b0;
    always_ff @(posedge clk_i) begin
      if (name_valid_o) done_q <= 1'b1;
    end

    always_ff @(posedge clk_i) begin
      if (!rst_ni || done_q || name_valid_o) begin
        {read_q, whole_q} <= '0;
        row_q             <= '0;
        part_q            <= '0;
      end else begin
        read_q  <= 1'b1;
        row_q   <= row_q + 1'b1;
        whole_q <= read_q & (part_q == 2'd2);
        if (read_q) part_q <= (part_q == 2'd2) ? 2'd0 : part_q + 1'b1;
      end
      if (read_q) record_q <= {word, record_q[95:32]};
    end

    assign name_valid_o                  = whole_q & (&load_address_o);
    assign load_valid_o                  = whole_q & ~(&load_address_o);
    assign {load_data_o, load_address_o} = record_q;
  end else begin : g_nothing
    logic unused;
    assign unused         = clk_i & rst_ni;
    assign name_valid_o   = 1'b0;
    assign load_valid_o   = 1'b0;
    assign load_address_o = '0;
    assign load_data_o    = '0;
  end
endmodule
