// The way of Out's and Down's sums to the residual stream, WORDS a clock, lanes in order.
//
// start_i comes with the end of the pass: the clock before sums_i is there. A bank shows WORDS of
// its eight lanes, until next_o. The residual stream wants to be told of sums two clocks ahead
// (soon_o), so the first are announced at once.

module sparse_sums #(
  parameter int unsigned BANKS = 8,
  parameter int unsigned WORDS = 4
) (
  input  logic                      clk_i,
  input  logic                      rst_ni,

  input  logic                      start_i,
  output logic [BANKS-1:0]          next_o,
  input  logic [24*WORDS*BANKS-1:0] sums_i,
  output logic                      free_o, // the last ones leave

  output logic                      soon_o,
  output logic [32*WORDS-1:0]       sum_o
);
  localparam int unsigned BankSlots = 8 / WORDS;
  localparam int unsigned Slots     = BankSlots * BANKS;
  localparam int unsigned SlotW     = $clog2(Slots);
  localparam int unsigned BankW     = (BANKS > 1) ? $clog2(BANKS) : 1;

  logic             busy_q, last;
  logic [SlotW-1:0] slot_q;
  logic [BankW-1:0] bank;

  assign last   = slot_q == SlotW'(Slots - 1);
  assign bank   = BankW'(slot_q >> $clog2(BankSlots));
  assign free_o = busy_q & last;
  assign soon_o = start_i | (busy_q & ~last);

  for (genvar b = 0; b < BANKS; b++) begin : g_next
    assign next_o[b] = busy_q & (bank == BankW'(b));
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) busy_q <= 1'b0;
    else if (start_i) busy_q <= 1'b1;
    else if (last) busy_q <= 1'b0;
  end

  logic [24*WORDS-1:0] chosen_q;

  always_ff @(posedge clk_i) begin
    if (start_i) slot_q <= '0;
    else if (busy_q) slot_q <= slot_q + 1'b1;
    if (busy_q) chosen_q <= sums_i[24*WORDS*bank +: 24*WORDS];
  end

  for (genvar i = 0; i < WORDS; i++) begin : g_word
    assign sum_o[32*i +: 32] = {8'd0, chosen_q[24*i +: 24]};
  end
endmodule
