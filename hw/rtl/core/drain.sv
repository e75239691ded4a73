// The way of a pass' results out of the lanes: DRAIN requantisers empty the columns' hold registers
// while the next pass is under way.
//
// Columns leave in order, DRAIN a clock, each with its bias and its multiplier from the parameter
// memory, whose rows are used one after another through the whole token. What Mix leaves has no
// parameters: its multiplier is the reciprocal of the head's sum of weights. Bytes go eight at a
// time to where the pass wants them, those of Up through GELU's table first; logits keep 16 bits.
//
// start_i comes with the capture: the clock before hold_i is there. What it says of the pass is
// kept until the next start_i, which cannot come before the last byte has left: between the two
// lies the whole way of a beat.

module drain #(
  parameter int unsigned COLUMNS    = 64,
  parameter int unsigned HEAD_WIDTH = 32,
  parameter int unsigned DRAIN      = 8,
  parameter int unsigned LAYERS     = 2,
  parameter int unsigned ROWS       = 1024, // of parameters
  // Files of what the parameters and GELU's table hold at power-up (memory.sv); 0: no files.
  parameter int unsigned INIT_PARAMETERS = 0, // of the first requantiser; the next one's follow
  parameter int unsigned INIT_GELU       = 0,
  parameter bit          SPLIT           = 1'b0, // see requantise.sv
  // Derived; not to be set.
  parameter int unsigned HEADS   = COLUMNS / HEAD_WIDTH,
  parameter int unsigned WORDS   = COLUMNS / 8,
  parameter int unsigned WORD_W  = (WORDS > 1) ? $clog2(WORDS) : 1,
  parameter int unsigned LAYER_W = (LAYERS > 1) ? $clog2(LAYERS) : 1
) (
  input  logic                  clk_i,
  input  logic                  rst_ni,

  input  logic [DRAIN-1:0]      load_parameter_i,
  input  logic                  load_gelu_i,
  input  logic [19:0]           load_row_i,
  input  logic [39:0]           load_data_i,

  // The token and its layer.
  input  logic                  token_start_i,
  input  logic [LAYER_W-1:0]    layer_i,

  // A pass.
  input  logic                  start_i,
  input  logic                  mix_i,
  input  logic                  to_gelu_i,
  input  logic                  to_logits_i,
  input  logic [5:0]            shift_i,
  output logic [COLUMNS/8-1:0]  next_o, // a bit a bank: its next columns are wanted
  input  logic [24*DRAIN*COLUMNS/8-1:0] hold_i,
  input  logic [16*HEADS-1:0]   reciprocal_i,
  input  logic [6*HEADS-1:0]    reciprocal_shift_i,
  output logic                  hold_free_o,
  output logic                  drained_o,

  output logic                  logits_valid_o,
  output logic [16*DRAIN-1:0]   logits_o,

  output logic                  word_valid_o,
  output logic [WORD_W-1:0]     word_index_o,
  output logic [63:0]           word_o
);
  localparam int unsigned Slots     = COLUMNS / DRAIN;
  localparam int unsigned SlotW     = (Slots > 1) ? $clog2(Slots) : 1;
  localparam int unsigned HeadSlots = HEAD_WIDTH / DRAIN;
  localparam int unsigned HeadW     = (HEADS > 1) ? $clog2(HEADS) : 1;
  localparam int unsigned RowW      = $clog2(ROWS);
  localparam int unsigned GeluRows  = 256 * LAYERS;
  localparam int unsigned GeluRowW  = $clog2(GeluRows);

  // ---- The pass and the slot of DRAIN columns that leaves. ----
  logic             mix_q, to_gelu_q, to_logits_q, busy_q, last_slot;
  logic             late_q, take_q, last_q, last_late_q, last_taken_q, last_known_q;
  logic [5:0]       shift_q;
  logic [SlotW-1:0] slot_q;
  logic [HeadW-1:0] head;

  assign last_slot = slot_q == SlotW'(Slots - 1);

  always_ff @(posedge clk_i) begin
    if (start_i) begin
      mix_q       <= mix_i;
      to_gelu_q   <= to_gelu_i;
      to_logits_q <= to_logits_i;
      shift_q     <= shift_i;
      slot_q      <= '0;
    end else if (busy_q) begin
      slot_q <= slot_q + 1'b1;
    end
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      {busy_q, late_q, take_q, last_q, last_late_q, last_taken_q, last_known_q} <= '0;
    end else begin
      if (start_i) busy_q <= 1'b1;
      else if (last_slot) busy_q <= 1'b0;
      late_q       <= busy_q;
      take_q       <= late_q;
      last_q       <= busy_q & last_slot;
      last_late_q  <= last_q;
      last_taken_q <= last_late_q;
      last_known_q <= last_taken_q;
    end
  end

  if (HEADS > 1) begin : g_heads
    assign head = HeadW'(slot_q >> $clog2(HeadSlots));
  end else begin : g_head
    assign head = '0;
  end

  // The sequencer may count on results once nothing that it issues can come before them any more:
  // long before they have arrived.
  assign hold_free_o = busy_q & last_slot;
  assign drained_o   = to_gelu_q ? last_known_q : last_taken_q;

  // A bank shows DRAIN columns at a time.
  localparam int unsigned BankSlots = 8 / DRAIN;
  logic [WORD_W-1:0]   bank;
  logic [24*DRAIN-1:0] columns_q, columns_late_q;

  if (WORDS > 1) begin : g_banks
    assign bank = WORD_W'(slot_q >> $clog2(BankSlots));
  end else begin : g_bank
    assign bank = '0;
  end

  for (genvar b = 0; b < WORDS; b++) begin : g_next
    assign next_o[b] = busy_q & (bank == WORD_W'(b));
  end

  always_ff @(posedge clk_i) begin
    if (busy_q) columns_q <= hold_i[24*DRAIN*bank +: 24*DRAIN];
    if (late_q) columns_late_q <= columns_q;
  end

  // ---- Parameters, read a clock ahead of their slot. They meet the columns a clock later. ----
  logic             step, step_mix;
  logic [RowW-1:0]  row_q;
  logic [5:0]       own_shift_q;
  logic [15:0]      reciprocal;
  logic [HeadW-1:0] head_q; // a clock later

  assign step_mix   = start_i ? mix_i : mix_q;
  assign step       = (start_i | (busy_q & ~last_slot)) & ~step_mix;
  assign reciprocal = reciprocal_i[16*head_q +: 16];

  always_ff @(posedge clk_i) begin
    if (token_start_i) row_q <= '0;
    else if (step) row_q <= row_q + 1'b1;
    if (busy_q) head_q <= head;
    if (late_q) own_shift_q <= mix_q ? reciprocal_shift_i[6*head_q +: 6] : shift_q;
  end

  // ---- The requantisers, and GELU. ----
  logic [DRAIN-1:0]   done, accepted; // all alike
  logic [8*DRAIN-1:0] bytes, active;
  logic [1:0]         gelu_q;

  for (genvar d = 0; d < DRAIN; d++) begin : g_drain
    logic [39:0] entry, entry_q; // bias, multiplier
    logic [15:0] value;
    logic        outside;

    memory #(
      .WIDTH(40), .DEPTH(ROWS),
      .INIT((INIT_PARAMETERS == 0) ? 0 : INIT_PARAMETERS + d)
    ) u_parameters (
      .clk_i,
      .write_i     (load_parameter_i[d]),
      .write_row_i (load_row_i[RowW-1:0]),
      .write_data_i(load_data_i),
      .read_i      (step),
      .read_row_i  (row_q),
      .read_data_o (entry)
    );

    always_ff @(posedge clk_i) begin
      if (late_q) entry_q <= mix_q ? {24'd0, reciprocal} : entry;
    end

    requantise #(.ACC_W(24), .OUT_W(16), .BIAS(1'b1), .SPLIT(SPLIT)) u_requantise (
      .clk_i,
      .rst_ni,
      .valid_i     (take_q),
      .ready_o     (accepted[d]),
      .acc_i       (columns_late_q[24*d +: 24]),
      .bias_i      (entry_q[39:16]),
      .multiplier_i(entry_q[15:0]),
      .shift_i     (own_shift_q),
      .valid_o     (done[d]),
      .ready_i     (1'b1),
      .value_o     (value)
    );

    // To 16 bits and then to 8 is the same as to 8 at once.
    assign outside = (|value[15:7]) & ~(&value[15:7]);
    assign bytes[8*d +: 8]      = outside ? {value[15], {7{~value[15]}}} : value[7:0];
    assign logits_o[16*d +: 16] = value;

    memory #(.WIDTH(8), .DEPTH(GeluRows), .INIT(INIT_GELU)) u_gelu (
      .clk_i,
      .write_i     (load_gelu_i),
      .write_row_i (load_row_i[GeluRowW-1:0]),
      .write_data_i(load_data_i[7:0]),
      .read_i      (done[0] & to_gelu_q),
      .read_row_i  (GeluRowW'({layer_i, ~bytes[8*d+7], bytes[8*d +: 7]})),
      .read_data_o (active[8*d +: 8])
    );
  end

  logic unused;
  assign unused = ^{done, accepted, load_row_i};

  assign logits_valid_o = done[0] & to_logits_q;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) gelu_q <= '0;
    else gelu_q <= {gelu_q[0], done[0] & to_gelu_q};
  end

  // ---- Eight bytes at a time. ----
  logic               arrive, whole;
  logic [8*DRAIN-1:0] arriving;
  logic [63:0]        word_d;

  assign arrive   = gelu_q[1] | (done[0] & ~to_gelu_q & ~to_logits_q);
  assign arriving = gelu_q[1] ? active : bytes;

  if (DRAIN < 8) begin : g_collect
    localparam int unsigned PartW = $clog2(8 / DRAIN);
    logic [PartW-1:0] part_q;

    assign word_d = {arriving, word_o[63:8*DRAIN]};
    assign whole  = &part_q;
    always_ff @(posedge clk_i) begin
      if (!rst_ni) part_q <= '0;
      else if (arrive) part_q <= part_q + 1'b1;
    end
  end else begin : g_whole
    assign word_d = arriving;
    assign whole  = 1'b1;
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) word_valid_o <= 1'b0;
    else word_valid_o <= arrive & whole;
  end

  always_ff @(posedge clk_i) begin
    if (arrive) word_o <= word_d;
    if (start_i) word_index_o <= '0;
    else if (word_valid_o) word_index_o <= word_index_o + 1'b1;
  end
endmodule
