// Sender of a serial line: 8 data bits, least significant first, no parity, one stop bit.
//
// The start bit goes out as a byte is taken. Behind the byte's bits in the register stands a one,
// the stop bit, and behind it zeros: with nothing else left the byte is over. No bits are counted.

module uart_tx #(
  parameter int unsigned CLOCKS = 33  // a bit, at least 4
) (
  input  logic       clk_i,
  input  logic       rst_ni,
  input  logic       valid_i,
  output logic       ready_o,
  input  logic [7:0] byte_i,
  output logic       tx_o
);
  localparam int unsigned CountW = $clog2(CLOCKS);

  logic [8:0]        shift_q; // what follows the bit on the line
  logic [CountW-1:0] count_q;
  logic              busy_q, last;

  assign last    = count_q == '0;
  assign ready_o = ~busy_q;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      busy_q <= 1'b0;
      tx_o   <= 1'b1;
    end else if (!busy_q) begin
      busy_q <= valid_i;
      tx_o   <= ~valid_i;
    end else if (last) begin
      busy_q <= |shift_q;
      tx_o   <= ~|shift_q | shift_q[0];
    end
  end

  always_ff @(posedge clk_i) begin
    if (!busy_q) shift_q <= {1'b1, byte_i};
    else if (last) shift_q <= {1'b0, shift_q[8:1]};
    count_q <= (!busy_q || last) ? CountW'(CLOCKS - 1) : count_q - 1'b1;
  end
endmodule
