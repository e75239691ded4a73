// Sends a frame as frame_rx.sv describes it.
//
// valid_i, kind_i, sequence_i and length_i stand still from the first clock to ready_o, which is up
// for one clock as the frame's last byte goes to the line. The payload is taken byte by byte.

module frame_tx #(
  parameter logic [7:0] START = 8'ha5
) (
  input  logic       clk_i,
  input  logic       rst_ni,

  input  logic       valid_i,
  output logic       ready_o,
  input  logic [7:0] kind_i,
  input  logic [7:0] sequence_i,
  input  logic [7:0] length_i,

  input  logic       payload_valid_i,
  output logic       payload_ready_o,
  input  logic [7:0] payload_i,

  output logic       byte_valid_o,
  input  logic       byte_ready_i,
  output logic [7:0] byte_o
);
  typedef enum logic [2:0] {Begin, Kind, Sequence, Length, Payload, Check} state_e;

  state_e      state_q;
  logic [7:0]  count_q;
  logic        take, last;
  logic [31:0] crc;

  assign last = count_q == length_i - 1'b1; // byte of the payload
  assign take = byte_valid_o & byte_ready_i;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      state_q <= Begin;
    end else if (take) begin
      unique case (state_q)
        Begin:    state_q <= Kind;
        Kind:     state_q <= Sequence;
        Sequence: state_q <= Length;
        Length:   state_q <= (length_i == '0) ? Check : Payload;
        Payload:  if (last) state_q <= Check;
        default:  if (count_q[1:0] == 2'd3) state_q <= Begin; // Check
      endcase
    end
  end

  always_ff @(posedge clk_i) begin
    if (state_q == Length) count_q <= '0;
    else if (take) count_q <= (state_q == Payload && last) ? '0 : count_q + 1'b1;
  end

  always_comb begin
    unique case (state_q)
      Begin:    byte_o = START;
      Kind:     byte_o = kind_i;
      Sequence: byte_o = sequence_i;
      Length:   byte_o = length_i;
      Payload:  byte_o = payload_i;
      default:  byte_o = crc[8*count_q[1:0] +: 8];
    endcase
  end

  assign byte_valid_o    = (state_q == Payload) ? payload_valid_i : valid_i;
  assign payload_ready_o = (state_q == Payload) & byte_ready_i;
  assign ready_o         = take & (state_q == Check) & (count_q[1:0] == 2'd3);

  logic unused_good;
  crc32 u_crc32 (
    .clk_i,
    .clear_i(state_q == Begin),
    .valid_i(take && state_q != Check),
    .byte_i (byte_o),
    .crc_o  (crc),
    .good_o (unused_good)
  );
endmodule
