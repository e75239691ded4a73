// The integer GPT of core.sv, the same numbers bit for bit, on a core that skips weights of zero.
//
// One dataflow does every matrix: a lane per output. A lane reads the weights of its row that are
// not zero, each with the index of its input, and takes that input out of its own copy of the
// vector (sparse_lane.sv). A matrix lasts as long as the lane with the most weights needs. Scores
// and mixtures of attention stay as in the dense core, with the same units.
//
// The residual stream moves WAYS elements a clock instead of one: nothing can be computed while a
// matrix' last outputs are added to it, normalised and filled into the copies, since any of them
// may be wanted next. The fill and the drain write one word of WAYS bytes a clock into all copies.
//
// The timetable, in clocks from a beat's issue by the sequencer:
//
//   0  the beat                              7  products
//   2  entries are read                      8  sums; the tree's first level
//   4  their inputs, keys, values are read   9  a row's sum is kept, and a pass ends
//   6  operands and factors are chosen      10  requantised, or on the way to the stream
//
// Reset is synchronous, active low, at any time: it empties the context and forgets the token in
// work; memories keep what was loaded.

module sparse_core #(
  parameter int unsigned LANES    = 64,
  parameter int unsigned LAYERS   = 2,
  parameter int unsigned WIDTH    = 128,
  parameter int unsigned HEADS    = 4,
  parameter int unsigned BLOCK    = 64,
  parameter int unsigned VOCAB    = 97,
  parameter int unsigned WEIGHT_W = 8,    // bits of a weight, 4 to 8
  parameter int unsigned ENTRIES  = 4096, // of a lane, for the whole model
  parameter bit          ULTRA    = 1'b0  // entries and cache in UltraRAM
) (
  input  logic        clk_i,
  input  logic        rst_ni,

  // Loading, a word a clock. The address: 4 bits of memory, 8 of its bank, 20 of the bank's row.
  input  logic        load_valid_i,
  input  logic [31:0] load_address_i,
  input  logic [63:0] load_data_i,

  input  logic        token_valid_i,
  output logic        token_ready_o,
  input  logic [7:0]  token_i,
  output logic        bad_token_o, // outside the vocabulary: taken, and without any effect

  output logic        logit_valid_o,
  input  logic        logit_ready_i,
  output logic [15:0] logit_o,
  output logic        logit_last_o,
  output logic [7:0]  argmax_o, // with the last logit

  // What the multipliers do; for a timeline.
  output logic [3:0]  phase_o
);
  localparam int unsigned Ways      = 4; // elements of the residual stream, and requantisers
  localparam int unsigned Chunks    = WIDTH / LANES;
  localparam int unsigned HeadWidth = WIDTH / HEADS;
  localparam int unsigned LaneHeads = LANES / HeadWidth;
  localparam int unsigned Banks     = LANES / 8;
  localparam int unsigned Slices    = (VOCAB + LANES - 1) / LANES;
  localparam int unsigned Fill      = WIDTH / Ways;

  localparam int unsigned EntriesW      = $clog2(ENTRIES);
  localparam int unsigned IndexW        = $clog2(4 * WIDTH);
  localparam int unsigned EntryW        = WEIGHT_W + IndexW + 1;
  localparam int unsigned CopyRowW      = IndexW - 1;
  localparam int unsigned LengthW       = IndexW + 1;
  localparam int unsigned PositionW     = $clog2(BLOCK);
  localparam int unsigned LayerW        = (LAYERS > 1) ? $clog2(LAYERS) : 1;
  localparam int unsigned ChunkW        = (Chunks > 1) ? $clog2(Chunks) : 1;
  localparam int unsigned SliceW        = (LAYERS * Chunks > 1) ? $clog2(LAYERS * Chunks) : 1;
  localparam int unsigned CacheRowW     = SliceW + 1 + PositionW;
  localparam int unsigned FillW         = $clog2(Fill);
  localparam int unsigned WordW         = (Banks > 1) ? $clog2(Banks) : 1;
  localparam int unsigned ParameterRows = ((LAYERS * 7 * Chunks) + Slices) * (LANES / Ways);

  // Sums that wait: a lane may be ahead by all rows of a matrix, while the last sums of the one
  // before leave.
  localparam int unsigned MostRows = (Slices > 4 * Chunks) ? Slices : 4 * Chunks;
  localparam int unsigned SumRows  = 1 << $clog2(MostRows + 1);
  localparam int unsigned SumRowW  = $clog2(SumRows);

  // Levels of the tree: within a bank, and up to a head's width.
  localparam int unsigned HeadLevels = $clog2(HeadWidth);

  // ---- Loading. The word waits in a register, whence it reaches every memory. ----
  typedef enum logic [3:0] {
    Entries, Lengths, DrainParameters, StreamParameters, Gelu, Token, Position, Rsqrt, Settings
  } memory_e;

  logic                load_q;
  logic [3:0]          load_memory_q;
  logic [7:0]          load_bank_q;
  logic [19:0]         load_row_q;
  logic [63:0]         load_data_q;
  logic [8:0]          load; // a bit a memory
  logic [2*EntryW-1:0] load_lower_q;
  logic [Ways-1:0]     load_way;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) load_q <= 1'b0;
    else load_q <= load_valid_i;
  end

  always_ff @(posedge clk_i) begin
    if (load_valid_i) begin
      {load_memory_q, load_bank_q, load_row_q} <= load_address_i;
      load_data_q                              <= load_data_i;
    end
    // Four entries are more than a word: the lower two wait for the upper two.
    if (load[Entries]) load_lower_q <= load_data_q[2*EntryW-1:0];
  end

  for (genvar m = 0; m < 9; m++) begin : g_load
    assign load[m] = load_q & (load_memory_q == 4'(m));
  end
  for (genvar w = 0; w < Ways; w++) begin : g_load_way
    assign load_way[w] = load_bank_q == 8'(w);
  end

  // No word has all 64 bits.
  logic unused;
  assign unused = ^load_data_q;

  // ---- Numbers of a layer, and those of the whole model behind them. ----
  logic [47:0]       settings [LAYERS];
  logic [47:0]       layer_q, model_q;
  logic [LayerW-1:0] layer;

  always_ff @(posedge clk_i) begin
    if (load[Settings] && load_row_q < 20'(LAYERS)) begin
      settings[load_row_q[LayerW-1:0]] <= load_data_q[47:0];
    end
    if (load[Settings] && load_row_q == 20'(LAYERS)) model_q <= load_data_q[47:0];
    layer_q <= settings[layer];
  end

  logic [5:0]  qkv_shift, out_shift, up_shift, down_shift, score_shift, head_shift, rsqrt_shift;
  logic [1:0]  mix_shift;
  logic [3:0]  embed_shift;
  logic [15:0] score_multiplier;
  logic [31:0] epsilon;

  assign {score_multiplier, mix_shift, score_shift, down_shift, up_shift, out_shift, qkv_shift}
       = layer_q;
  assign {head_shift, embed_shift, rsqrt_shift, epsilon} = model_q;

  // ---- The beats: issued by the sequencer, then shifted along, one place a clock. ----
  typedef enum logic [3:0] {
    Idle, Fetch, Embed, Query, Key, Score, Value, Mix, Out, Up, Down, Head, Finish, Next, Recall
  } phase_e;

  localparam int unsigned Places = 9 + HeadLevels; // as far as the heads' sums
  logic [Places-1:0]      score, last;
  logic [9:0]             matrix, mix;
  logic [6:0]             first, fill;
  logic [9:0][3:0]        phase;
  logic [9:0][ChunkW-1:0] chunk;
  logic                   embed, start, idle;
  logic [FillW-1:0]       embed_row, fill_row;
  logic [7:0]             token;
  logic [PositionW-1:0]   position;
  logic [SliceW-1:0]      layer_slice;

  logic [Places-2:0]      score_q, last_q;
  logic [8:0]             matrix_q, mix_q;
  logic [5:0]             first_q, fill_q;
  logic [8:0][3:0]        phase_q;
  logic [8:0][ChunkW-1:0] chunk_q;

  assign score[Places-1:1] = score_q;
  assign last[Places-1:1]  = last_q;
  assign matrix[9:1]       = matrix_q;
  assign mix[9:1]          = mix_q;
  assign first[6:1]        = first_q;
  assign fill[6:1]         = fill_q;
  assign phase[9:1]        = phase_q;
  assign chunk[9:1]        = chunk_q;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) {matrix_q, mix_q, score_q, fill_q} <= '0;
    else begin
      matrix_q <= matrix[8:0];
      mix_q    <= mix[8:0];
      score_q  <= score[Places-2:0];
      fill_q   <= fill[5:0];
    end
  end

  always_ff @(posedge clk_i) begin
    last_q  <= last[Places-2:0];
    first_q <= first[5:0];
    phase_q <= phase[8:0];
    chunk_q <= chunk[8:0];
  end

  logic unread, complete, norm_ready, mix_ready, hold_free, stream_free, drained;

  sparse_sequencer #(
    .LAYERS(LAYERS), .CHUNKS(Chunks), .BLOCK(BLOCK), .VOCAB(VOCAB), .SLICES(Slices), .FILL(Fill),
    .LENGTH_W(LengthW)
  ) u_sequencer (
    .clk_i,
    .rst_ni,
    .load_length_i(load[Lengths]),
    .load_row_i   (load_row_q),
    .load_data_i  (load_data_q[LengthW-1:0]),
    .token_valid_i,
    .token_ready_o,
    .token_i,
    .bad_token_o,
    .unread_i     (unread),
    .complete_i   (complete),
    .norm_ready_i (norm_ready),
    .mix_ready_i  (mix_ready),
    .sums_free_i  (hold_free | stream_free),
    .drained_i    (drained),
    .start_o      (start),
    .token_o      (token),
    .position_o   (position),
    .layer_o      (layer),
    .slice_o      (layer_slice),
    .idle_o       (idle),
    .fill_o       (fill[0]),
    .fill_row_o   (fill_row),
    .phase_o      (phase[0]),
    .embed_row_o  (embed_row),
    .chunk_o      (chunk[0]),
    .first_o      (first[0]),
    .last_o       (last[0]),
    .embed_o      (embed),
    .matrix_o     (matrix[0]),
    .mix_o        (mix[0]),
    .score_o      (score[0])
  );

  // The multipliers' phase; Finish when they stand still in the middle of a token.
  logic busy_q;
  always_ff @(posedge clk_i) begin
    busy_q  <= matrix[6] | mix[6] | score[6];
    phase_o <= busy_q ? phase[7] : embed ? Embed : idle ? Idle : Finish;
  end

  // ---- Addresses of entries and of the cache. ----
  logic                 read_cache;
  logic [EntriesW-1:0]  entry_row_q;
  logic [PositionW-1:0] time_q;
  logic [SliceW-1:0]    slice_q; // of clock 4

  assign read_cache = score[4] | mix[4];

  always_ff @(posedge clk_i) begin
    if (start) entry_row_q <= '0;
    else if (matrix[2]) entry_row_q <= entry_row_q + 1'b1;
    if (start) time_q <= '0;
    else if (read_cache) time_q <= last[4] ? '0 : time_q + 1'b1;
    slice_q <= layer_slice + SliceW'(chunk[3]);
  end

  // ---- What is filled into the copies: the normalised vector, or what the requantisers make. ----
  //
  // Vectors as wide as the stream share a place, since never two of them are needed at a time; the
  // hidden one lies below. A word of the drain is written in two halves: the next one is two clocks
  // behind it.
  logic                copy_write_q, copy_later_q, hidden_q, to_copy;
  logic [CopyRowW-1:0] copy_row_q;
  logic [31:0]         copy_data_q, copy_later_data_q;
  logic [FillW-1:0]    filled_row_q;
  logic [CopyRowW-2:0] word_row_q;
  logic [8*Ways-1:0]   normalised;
  logic                word_valid, word_to_cache_q, word_to_stage_q, word_is_copied_q;
  logic [WordW-1:0]    word_index;
  logic [63:0]         word;

  assign to_copy = word_valid & word_is_copied_q;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) {copy_write_q, copy_later_q} <= '0;
    else begin
      copy_write_q <= fill[6] | to_copy | copy_later_q;
      copy_later_q <= to_copy;
    end
  end

  always_ff @(posedge clk_i) begin
    if (norm_ready) filled_row_q <= '0;
    else if (fill[6]) filled_row_q <= filled_row_q + 1'b1;
    if (norm_ready) word_row_q <= '0;
    else if (to_copy || copy_later_q) word_row_q <= word_row_q + 1'b1;
    if (fill[6]) {copy_row_q, copy_data_q} <= {1'b1, (CopyRowW-1)'(filled_row_q), normalised};
    else begin
      copy_row_q  <= {~hidden_q, word_row_q};
      copy_data_q <= to_copy ? word[31:0] : copy_later_data_q;
    end
    if (to_copy) copy_later_data_q <= word[63:32];
  end

  // ---- The lanes. ----
  logic                     operand_load, factor_load, factor_cache, accumulate, ends, to_stream;
  logic [2:0]               add;
  logic [8*LaneHeads-1:0]   weights;
  logic [32*Banks-1:0]      dots_of_banks;
  logic [24*Ways*Banks-1:0] sums; // of the lanes that leave next
  logic [Banks-1:0]         drain_next, stream_next;
  logic [SumRowW-1:0]       sum_row_q;

  logic                     cache_value_q;
  logic [SliceW-1:0]        cache_slice_q;
  logic [ChunkW-1:0]        stage_row_q;

  assign operand_load = matrix[6] | mix[6] | (score[6] & first[6]);
  assign factor_load  = matrix[6] | mix[6] | score[6];
  assign factor_cache = mix[6] | score[6];
  assign accumulate   = matrix[8] | mix[8];
  assign ends         = (matrix[9] | mix[9]) & last[9];
  assign to_stream    = (phase[9] == Out) | (phase[9] == Down);
  assign add          = score[10:8];

  for (genvar b = 0; b < Banks; b++) begin : g_bank
    logic [1:0] load_here;

    for (genvar i = 0; i < 2; i++) begin : g_load
      assign load_here[i] = load[Entries] & (load_bank_q == 8'((4 * b) + (2 * i) + 1));
    end

    sparse_bank #(
      .WEIGHT_W(WEIGHT_W), .INDEX_W(IndexW), .ENTRIES(ENTRIES), .ROWS(SumRows),
      .CACHE_ROWS(1 << CacheRowW), .STAGE_ROWS(Chunks), .WAYS(Ways), .ULTRA(ULTRA)
    ) u_bank (
      .clk_i,
      .start_i          (start),
      .load_entry_i     (load_here),
      .load_row_i       (load_row_q[EntriesW-1:0]),
      .load_data_i      ({load_data_q[2*EntryW-1:0], load_lower_q}),
      .write_cache_i    (word_valid & word_to_cache_q & (word_index == WordW'(b))),
      .write_cache_row_i({cache_slice_q, cache_value_q, position}),
      .write_stage_i    (word_valid & word_to_stage_q & (word_index == WordW'(b))),
      .write_stage_row_i(stage_row_q),
      .write_data_i     (word),
      .copy_write_i     (copy_write_q),
      .copy_row_i       (copy_row_q),
      .copy_data_i      (copy_data_q),
      .read_entry_i     (matrix[2]),
      .entry_row_i      (entry_row_q),
      .read_copy_i      (matrix[4]),
      .narrow_i         (phase[4] != Down),
      .read_cache_i     (read_cache),
      .cache_row_i      ({slice_q, mix[4], time_q}),
      .read_stage_i     (score[5] & first[5]),
      .stage_row_i      (chunk[5]),
      .operand_load_i   (operand_load),
      .operand_staged_i (score[6]),
      .operand_mix_i    (mix[6]),
      .mix_i            (weights[8*((8*b)/HeadWidth) +: 8]),
      .factor_load_i    (factor_load),
      .factor_cache_i   (factor_cache),
      .multiply_i       (busy_q),
      .accumulate_i     (accumulate),
      .close_i          (mix[8] & last[8]),
      .add_i            (add),
      .dot_o            (dots_of_banks[32*b +: 32]),
      .row_i            (sum_row_q),
      .next_i           (drain_next[b] | stream_next[b]),
      .sums_o           (sums[24*Ways*b +: 24*Ways])
    );
  end

  // ---- The tree above the banks, as far as the heads. ----
  localparam int unsigned UpperLevels = HeadLevels - 3;
  localparam int unsigned UpperW      = (UpperLevels > 0) ? UpperLevels : 1;
  localparam int unsigned HeadBanks   = HeadWidth / 8;

  logic [32*LaneHeads-1:0] dots;
  logic [UpperW-1:0]       add_upper;

  if (UpperLevels > 0) begin : g_upper
    assign add_upper = score[11 +: UpperLevels];
  end else begin : g_no_upper
    assign add_upper = '0;
  end

  for (genvar h = 0; h < LaneHeads; h++) begin : g_head
    adder_tree #(.INPUTS(HeadBanks), .TERM_W(20)) u_tree (
      .clk_i,
      .advance_i(add_upper),
      .terms_i  (dots_of_banks[32*HeadBanks*h +: 32*HeadBanks]),
      .sum_o    (dots[32*h +: 32])
    );
  end

  // ---- Sums that leave the lanes: a row of all of them, once the slowest has it. ----
  logic [16*LaneHeads-1:0] reciprocal;
  logic [6*LaneHeads-1:0]  reciprocal_shift;
  logic [5:0]              drain_shift, stream_shift_q;
  logic [LayerW-1:0]       drain_layer_q;
  logic                    logits_valid;
  logic [16*Ways-1:0]      logits_row;

  assign drain_shift = (phase[9] == Head) ? head_shift : (phase[9] == Up) ? up_shift : qkv_shift;

  always_ff @(posedge clk_i) begin
    if (start) sum_row_q <= '1;
    else if (ends) sum_row_q <= sum_row_q + 1'b1;
    if (ends) begin
      word_to_cache_q  <= (phase[9] == Key) | (phase[9] == Value);
      word_to_stage_q  <= phase[9] == Query;
      word_is_copied_q <= (phase[9] == Mix) | (phase[9] == Up);
      hidden_q         <= phase[9] == Up;
      cache_value_q    <= phase[9] == Value;
      cache_slice_q    <= layer_slice + SliceW'(chunk[9]);
      stage_row_q      <= chunk[9];
      drain_layer_q    <= layer; // which may be another one when the last bytes pass GELU's table
    end
  end

  drain #(
    .COLUMNS(LANES), .HEAD_WIDTH(HeadWidth), .DRAIN(Ways), .LAYERS(LAYERS), .ROWS(ParameterRows)
  ) u_drain (
    .clk_i,
    .rst_ni,
    .load_parameter_i  (load_way & {Ways{load[DrainParameters]}}),
    .load_gelu_i       (load[Gelu]),
    .load_row_i        (load_row_q),
    .load_data_i       (load_data_q[39:0]),
    .token_start_i     (start),
    .layer_i           (drain_layer_q),
    .start_i           (ends & ~to_stream),
    .mix_i             (mix[9]),
    .to_gelu_i         (phase[9] == Up),
    .to_logits_i       (phase[9] == Head),
    .shift_i           (drain_shift),
    .next_o            (drain_next),
    .hold_i            (sums),
    .reciprocal_i      (reciprocal),
    .reciprocal_shift_i(reciprocal_shift),
    .hold_free_o       (hold_free),
    .drained_o         (drained),
    .logits_valid_o    (logits_valid),
    .logits_o          (logits_row),
    .word_valid_o      (word_valid),
    .word_index_o      (word_index),
    .word_o            (word)
  );

  logits #(.VOCAB(VOCAB), .DRAIN(Ways), .ROWS(Slices * (LANES / Ways))) u_logits (
    .clk_i,
    .rst_ni,
    .start_i   (start),
    .valid_i   (logits_valid),
    .value_i   (logits_row),
    .unread_o  (unread),
    .complete_o(complete),
    .logit_valid_o,
    .logit_ready_i,
    .logit_o,
    .logit_last_o,
    .argmax_o
  );

  // ---- Attention. ----
  attention #(.HEADS(LaneHeads), .GROUPS(1), .BLOCK(BLOCK)) u_attention (
    .clk_i,
    .rst_ni,
    .multiplier_i      (score_multiplier),
    .shift_i           (score_shift),
    .mix_shift_i       (mix_shift),
    .valid_i           (score[8+HeadLevels]),
    .last_i            (last[8+HeadLevels]),
    .count_i           (1'b1),
    .dots_i            (dots),
    .ready_o           (mix_ready),
    .take_i            (mix[6]),
    .weights_o         (weights),
    .reciprocal_o      (reciprocal),
    .reciprocal_shift_o(reciprocal_shift)
  );

  // ---- The residual stream. ----
  logic               embed_valid, stream_soon;
  logic [16*Ways-1:0] embedded;
  logic [32*Ways-1:0] stream_sums;

  embedding #(.WIDTH(WIDTH), .GROUPS(Ways), .BLOCK(BLOCK), .VOCAB(VOCAB)) u_embedding (
    .clk_i,
    .rst_ni,
    .shift_i        (embed_shift),
    .load_token_i   (load_way & {Ways{load[Token]}}),
    .load_position_i(load_way & {Ways{load[Position]}}),
    .load_row_i     (load_row_q),
    .load_data_i    (load_data_q[7:0]),
    .embed_i        (embed),
    .token_i        (token),
    .position_i     (position),
    .beat_i         (embed_row),
    .valid_o        (embed_valid),
    .value_o        (embedded)
  );

  sparse_sums #(.BANKS(Banks), .WORDS(Ways)) u_sums (
    .clk_i,
    .rst_ni,
    .start_i(ends & to_stream),
    .next_o (stream_next),
    .sums_i (sums),
    .free_o (stream_free),
    .soon_o (stream_soon),
    .sum_o  (stream_sums)
  );

  // The layer may have changed when the last sums of Down are requantised: their shift may not.
  always_ff @(posedge clk_i) begin
    if (matrix[0] && first[0] && (phase[0] == Out || phase[0] == Down)) begin
      stream_shift_q <= (phase[0] == Out) ? out_shift : down_shift;
    end
  end

  residual #(.LAYERS(LAYERS), .WIDTH(WIDTH), .GROUPS(Ways)) u_residual (
    .clk_i,
    .rst_ni,
    .load_parameter_i(load_way & {Ways{load[StreamParameters]}}),
    .load_rsqrt_i    (load[Rsqrt]),
    .load_row_i      (load_row_q),
    .load_data_i     (load_data_q[39:0]),
    .epsilon_i       (epsilon),
    .rsqrt_shift_i   (rsqrt_shift),
    .start_i         (start),
    .embed_valid_i   (embed_valid),
    .embed_i         (embedded),
    .norm_i          (fill[0]),
    .norm_row_i      (fill_row),
    .norm_o          (normalised),
    .norm_ready_o    (norm_ready),
    .sum_soon_i      (stream_soon),
    .open_i          (1'b1),
    .close_i         (1'b1),
    .shift_i         (stream_shift_q),
    .sum_i           (stream_sums)
  );
endmodule
