// The ULX3S: pins, clock and reset around board.sv.
//
// The parameters are nano's, a model that fits an LFE5U-85F with all its weights. The line runs at
// 3 Mbaud, the most that the board's USB chip does: 33 clocks of 10 ns are one percent off, which
// either receiver takes. A frame ends after 16384 bits of silence, 5 ms.

module top #(
  parameter int unsigned LANES    = 64,
  parameter int unsigned LAYERS   = 2,
  parameter int unsigned WIDTH    = 128,
  parameter int unsigned HEADS    = 4,
  parameter int unsigned BLOCK    = 64,
  parameter int unsigned VOCAB    = 97,
  parameter int unsigned WEIGHT_W = 6,
  parameter int unsigned DRAIN    = 2,
  parameter bit          INIT     = 1'b1 // the model is in the bitstream
) (
  input  logic       clk_25mhz,
  input  logic       ftdi_txd, // from the host
  output logic       ftdi_rxd, // to the host
  input  logic       btn_fire2,
  output logic [7:0] led
);
  logic clk, locked;

  pll u_pll (
    .clk_i(clk_25mhz), .clk_o(clk), .locked_o(locked)
  );

  // Reset lasts until the PLL has locked and the button is up, and 2^16 clocks longer, in which the
  // button stops bouncing. The counter is zero at power-up, as the bitstream says. Both inputs know
  // nothing of the clock.
  logic [1:0]  hold_q;
  logic [16:0] wait_q;

  initial wait_q = '0;
  always_ff @(posedge clk) begin
    hold_q <= {hold_q[0], ~locked | btn_fire2};
    if (hold_q[1]) wait_q <= '0;
    else if (!wait_q[16]) wait_q <= wait_q + 1'b1;
  end

  board #(
    .LANES(LANES), .LAYERS(LAYERS), .WIDTH(WIDTH), .HEADS(HEADS), .BLOCK(BLOCK), .VOCAB(VOCAB),
    .WEIGHT_W(WEIGHT_W), .DRAIN(DRAIN), .INIT(INIT), .SPLIT(1'b1), .CLOCKS(33), .SILENCE(16384)
  ) u_board (
    .clk_i(clk), .rst_ni(wait_q[16]), .rx_i(ftdi_txd), .tx_o(ftdi_rxd), .leds_o(led)
  );
endmodule
