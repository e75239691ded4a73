// Finds frames in the bytes of a serial line, and shows those that are whole.
//
//   START, kind, sequence number, length, so many bytes, CRC-32 of all but START, lowest byte first
//
// The payload is written to the caller's buffer as it arrives, before anybody knows whether it is
// right; valid_o comes with the last byte of a right checksum and stays until ready_i. Until then
// bytes are ignored: the buffer holds what valid_o stands for.
//
// Garbage may look like the beginning of a frame, and a damaged length may ask for more bytes than
// there are. So a frame also ends when nothing arrives for TIMEOUT clocks: a sender that waits so
// long before it repeats itself is always understood. damaged_o is up for one clock whenever a
// frame that had begun is given up.

module frame_rx #(
  parameter logic [7:0]  START   = 8'ha5,
  parameter int unsigned TIMEOUT = 540672
) (
  input  logic       clk_i,
  input  logic       rst_ni,

  input  logic       byte_valid_i,
  input  logic       byte_error_i,
  input  logic [7:0] byte_i,

  output logic       write_o,
  output logic [7:0] address_o,
  output logic [7:0] data_o,

  output logic       valid_o,
  input  logic       ready_i,
  output logic [7:0] kind_o,
  output logic [7:0] sequence_o,
  output logic [7:0] length_o,

  output logic       damaged_o
);
  localparam int unsigned QuietW = $clog2(TIMEOUT + 1);

  typedef enum logic [2:0] {Hunt, Kind, Sequence, Length, Payload, Check, Judge, Hold} state_e;

  state_e            state_q;
  logic [QuietW-1:0] quiet_q;
  logic [7:0]        count_q;
  logic              take, good, give_up, begun, last;

  assign take    = byte_valid_i;
  assign begun   = (state_q != Hunt) & (state_q != Judge) & (state_q != Hold);
  assign last    = count_q == length_o - 1'b1; // byte of the payload
  assign give_up = begun & (byte_error_i | (quiet_q == '0));

  always_ff @(posedge clk_i) begin
    damaged_o <= 1'b0;
    if (!rst_ni) begin
      state_q <= Hunt;
    end else if (give_up) begin
      state_q   <= Hunt;
      damaged_o <= 1'b1;
    end else begin
      unique case (state_q)
        Hunt:     if (take && byte_i == START) state_q <= Kind;
        // No kind has the number START: twice START is the second that counts.
        Kind:     if (take && byte_i != START) state_q <= Sequence;
        Sequence: if (take) state_q <= Length;
        Length:   if (take) state_q <= (byte_i == '0) ? Check : Payload;
        Payload:  if (take && last) state_q <= Check;
        Check:    if (take && count_q[1:0] == 2'd3) state_q <= Judge;
        Judge: begin
          state_q   <= good ? Hold : Hunt;
          damaged_o <= ~good;
        end
        default:  if (ready_i) state_q <= Hunt; // Hold
      endcase
    end
  end

  assign valid_o = state_q == Hold;

  always_ff @(posedge clk_i) begin
    if (take) begin
      if (state_q == Kind) kind_o <= byte_i;
      if (state_q == Sequence) sequence_o <= byte_i;
      if (state_q == Length) length_o <= byte_i;
    end
    if (take || state_q == Hunt) quiet_q <= QuietW'(TIMEOUT);
    else quiet_q <= quiet_q - 1'b1;
    // Counts the payload, then the checksum.
    if (state_q == Length) count_q <= '0;
    else if (take) count_q <= (state_q == Payload && last) ? '0 : count_q + 1'b1;
  end

  assign write_o   = take & (state_q == Payload);
  assign address_o = count_q;
  assign data_o    = byte_i;

  logic [31:0] unused_crc;
  crc32 u_crc32 (
    .clk_i,
    .clear_i(state_q == Hunt || (state_q == Kind && byte_i == START)),
    .valid_i(take),
    .byte_i,
    .crc_o  (unused_crc),
    .good_o (good)
  );
endmodule
