// CRC-32 of a frame, a byte a clock: the polynomial of Ethernet, zip and Python's zlib.
//
// Bits enter least significant first, the register starts as ones and leaves inverted. Whoever lets
// the four bytes of a right checksum, lowest first, run through the register as well finds one and
// the same number in it, whatever the frame: the receiver needs no second copy to compare with.
//
// There is no reset: clear_i comes with every frame.

module crc32 (
  input  logic        clk_i,
  input  logic        clear_i,
  input  logic        valid_i,
  input  logic [7:0]  byte_i,
  output logic [31:0] crc_o,
  output logic        good_o
);
  localparam logic [31:0] Polynomial = 32'hedb88320;
  localparam logic [31:0] Residue    = 32'hdebb20e3;

  logic [31:0] crc_q;

  // Eight steps of the one-bit register; what is left for the synthesiser are 32 XORs of at most
  // ten inputs.
  function automatic logic [31:0] advance(input logic [31:0] crc, input logic [7:0] data);
    advance = {crc[31:8], crc[7:0] ^ data};
    for (int k = 0; k < 8; k++) begin
      advance = {1'b0, advance[31:1]} ^ (advance[0] ? Polynomial : '0);
    end
  endfunction

  always_ff @(posedge clk_i) begin
    if (clear_i) crc_q <= '1;
    else if (valid_i) crc_q <= advance(crc_q, byte_i);
  end

  assign crc_o  = ~crc_q;
  assign good_o = crc_q == Residue;
endmodule
