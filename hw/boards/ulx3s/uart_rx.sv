// Receiver of a serial line: 8 data bits, least significant first, no parity, one stop bit.
//
// Bits are sampled in their middles, counted from the falling edge that begins a byte. The stop bit
// is sampled last, and from its middle on the next edge is awaited: the sender may be faster or
// slower. By how much follows from the clocks a bit: the last sample is 9.5 bits behind the edge,
// which itself is seen up to one clock late, and must lie within half a bit.
//
// A stop bit that is low gives error_o in place of valid_o; the line has to go high before the next
// byte. Both are up for one clock, and nothing waits: a byte takes at least ten bits to arrive.

module uart_rx #(
  parameter int unsigned CLOCKS = 33  // a bit, at least 4
) (
  input  logic       clk_i,
  input  logic       rst_ni,
  input  logic       rx_i,
  output logic       valid_o,
  output logic       error_o,
  output logic [7:0] byte_o
);
  localparam int unsigned CountW = $clog2(CLOCKS);
  localparam logic [CountW-1:0] Whole = CountW'(CLOCKS - 1);
  localparam logic [CountW-1:0] Half  = CountW'((CLOCKS - 1) / 2);

  typedef enum logic [1:0] {Idle, Start, Data, Break} state_e;

  state_e            state_q;
  logic              meta_q, line_q;
  logic [CountW-1:0] count_q;
  logic [2:0]        bit_q;
  logic              stop_q, sample;

  // The line knows nothing of the clock: two flip-flops, so that what follows sees a clean level.
  always_ff @(posedge clk_i) begin
    meta_q <= rx_i;
    line_q <= meta_q;
  end

  assign sample = count_q == '0;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      state_q <= Break; // a reset may come in the middle of a byte
      valid_o <= 1'b0;
      error_o <= 1'b0;
    end else begin
      valid_o <= 1'b0;
      error_o <= 1'b0;
      unique case (state_q)
        Idle: if (!line_q) state_q <= Start;
        Start: if (sample) state_q <= line_q ? Idle : Data; // a spike is no start bit
        Data: begin
          if (sample && stop_q) begin
            state_q <= line_q ? Idle : Break;
            valid_o <= line_q;
            error_o <= ~line_q;
          end
        end
        default: if (line_q) state_q <= Idle;
      endcase
    end
  end

  always_ff @(posedge clk_i) begin
    if (state_q == Idle) count_q <= Half - 1'b1; // the edge has been seen for one clock
    else count_q <= sample ? Whole : count_q - 1'b1;
    if (state_q == Start) begin
      bit_q  <= '0;
      stop_q <= 1'b0;
    end else if (state_q == Data && sample && !stop_q) begin
      byte_o          <= {line_q, byte_o[7:1]};
      {stop_q, bit_q} <= {1'b0, bit_q} + 1'b1;
    end
  end
endmodule
