// The core behind a serial line: all of the board that is the same for every vendor.
//
// rst_ni may be asserted at any time; the memories, and with them the model, keep their contents.
// Parameters are the core's (hw/rtl/core.sv), the line's clocks a bit, and how many bits of silence
// end a frame that has begun: longer than a host's USB adapter may pause inside a frame. With INIT
// there is a model from the beginning, and memory1900.hex is what boot.sv loads.

module board #(
  parameter int unsigned LANES    = 16,
  parameter int unsigned LAYERS   = 1,
  parameter int unsigned WIDTH    = 16,
  parameter int unsigned HEADS    = 2,
  parameter int unsigned BLOCK    = 8,
  parameter int unsigned VOCAB    = 97,
  parameter int unsigned WEIGHT_W = 8,
  parameter int unsigned DRAIN    = 8,
  parameter bit          INIT     = 1'b0,
  parameter bit          SPLIT    = 1'b0,
  parameter int unsigned CLOCKS   = 33,
  parameter int unsigned SILENCE  = 16384
) (
  input  logic       clk_i,
  input  logic       rst_ni,
  input  logic       rx_i,
  output logic       tx_o,
  output logic [7:0] leds_o
);
  localparam logic [7:0] Start = 8'ha5;
  localparam int unsigned AddressW = 32;
  localparam int unsigned LoadW = 64;

  // ---- The line. ----
  logic       rx_valid, rx_error, tx_valid, tx_ready;
  logic [7:0] rx_byte, tx_byte;

  uart_rx #(
    .CLOCKS(CLOCKS)
  ) u_uart_rx (
    .clk_i, .rst_ni, .rx_i, .valid_o(rx_valid), .error_o(rx_error), .byte_o(rx_byte)
  );

  uart_tx #(
    .CLOCKS(CLOCKS)
  ) u_uart_tx (
    .clk_i, .rst_ni, .valid_i(tx_valid), .ready_o(tx_ready), .byte_i(tx_byte), .tx_o
  );

  // ---- Frames. ----
  logic       write, request_valid, request_ready, damaged;
  logic [7:0] write_address, write_data, kind, sequence_number, length;
  logic       reply_valid, reply_ready, payload_valid, payload_ready;
  logic [7:0] reply_kind, reply_sequence, reply_length, payload;

  frame_rx #(
    .START  (Start),
    .TIMEOUT(CLOCKS * SILENCE)
  ) u_frame_rx (
    .clk_i, .rst_ni,
    .byte_valid_i(rx_valid), .byte_error_i(rx_error), .byte_i(rx_byte),
    .write_o(write), .address_o(write_address), .data_o(write_data),
    .valid_o(request_valid), .ready_i(request_ready),
    .kind_o(kind), .sequence_o(sequence_number), .length_o(length),
    .damaged_o(damaged)
  );

  frame_tx #(
    .START(Start)
  ) u_frame_tx (
    .clk_i, .rst_ni,
    .valid_i(reply_valid), .ready_o(reply_ready),
    .kind_i(reply_kind), .sequence_i(reply_sequence), .length_i(reply_length),
    .payload_valid_i(payload_valid), .payload_ready_o(payload_ready), .payload_i(payload),
    .byte_valid_o(tx_valid), .byte_ready_i(tx_ready), .byte_o(tx_byte)
  );

  // ---- Requests. ----
  logic                core_rst_n, load_valid, token_valid, token_ready, bad_token;
  logic                logit_valid, logit_ready, logit_last;
  logic [AddressW-1:0] load_address;
  logic [LoadW-1:0]    load_data;
  logic [7:0]          token, argmax;
  logic [15:0]         logit;
  logic [3:0]          unused_phase;
  logic                model_known, host_known, busy;

  logic                boot_valid, name_valid, write_valid;
  logic [AddressW-1:0] boot_address, write_word_address;
  logic [LoadW-1:0]    boot_data, write_word;

  boot #(
    .INIT(INIT ? 1900 : 0)
  ) u_boot (
    .clk_i, .rst_ni,
    .load_valid_o(boot_valid), .load_address_o(boot_address), .load_data_o(boot_data),
    .name_valid_o(name_valid)
  );

  // The first frame takes far longer than the ROM does.
  assign load_valid   = boot_valid | write_valid;
  assign load_address = boot_valid ? boot_address : write_word_address;
  assign load_data    = boot_valid ? boot_data : write_word;

  frames #(
    .LANES(LANES), .LAYERS(LAYERS), .WIDTH(WIDTH), .HEADS(HEADS), .BLOCK(BLOCK), .VOCAB(VOCAB),
    .WEIGHT_W(WEIGHT_W), .DRAIN(DRAIN), .ADDRESS_W(AddressW), .LOAD_W(LoadW), .FIXED(INIT)
  ) u_frames (
    .clk_i, .rst_ni, .name_valid_i(name_valid), .name_i(boot_data),
    .write_i(write), .address_i(write_address), .data_i(write_data),
    .request_valid_i(request_valid), .request_ready_o(request_ready),
    .kind_i(kind), .sequence_i(sequence_number), .length_i(length),
    .damaged_i(damaged),
    .reply_valid_o(reply_valid), .reply_ready_i(reply_ready),
    .kind_o(reply_kind), .sequence_o(reply_sequence), .length_o(reply_length),
    .payload_valid_o(payload_valid), .payload_ready_i(payload_ready), .payload_o(payload),
    .core_rst_no(core_rst_n),
    .load_valid_o(write_valid), .load_address_o(write_word_address), .load_data_o(write_word),
    .token_valid_o(token_valid), .token_ready_i(token_ready), .token_o(token),
    .bad_token_i(bad_token),
    .logit_valid_i(logit_valid), .logit_ready_o(logit_ready), .logit_i(logit),
    .logit_last_i(logit_last), .argmax_i(argmax),
    .ready_o(model_known), .known_o(host_known), .busy_o(busy)
  );

  core #(
    .LANES(LANES), .LAYERS(LAYERS), .WIDTH(WIDTH), .HEADS(HEADS), .BLOCK(BLOCK), .VOCAB(VOCAB),
    .WEIGHT_W(WEIGHT_W), .DRAIN(DRAIN), .INIT(INIT), .SPLIT(SPLIT)
  ) u_core (
    .clk_i, .rst_ni(core_rst_n),
    .load_valid_i(load_valid), .load_address_i(load_address), .load_data_i(load_data),
    .token_valid_i(token_valid), .token_ready_o(token_ready), .token_i(token),
    .bad_token_o(bad_token),
    .logit_valid_o(logit_valid), .logit_ready_i(logit_ready), .logit_o(logit),
    .logit_last_o(logit_last), .argmax_o(argmax), .phase_o(unused_phase)
  );

  // ---- Diodes: a line in use flickers, a damaged frame lights one for a while. ----
  localparam int unsigned GlowW = 24; // a sixth of a second at 100 MHz
  logic [GlowW-1:0] glow_q;
  logic             damaged_q;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      glow_q    <= '0;
      damaged_q <= 1'b0;
    end else begin
      glow_q <= glow_q + 1'b1;
      if (damaged) damaged_q <= 1'b1;
      else if (glow_q == '1) damaged_q <= 1'b0;
    end
  end

  assign leds_o = {glow_q[GlowW-1], 1'b0, damaged_q, ~tx_o, ~rx_i, busy, host_known, model_known};
endmodule
