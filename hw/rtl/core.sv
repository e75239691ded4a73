// An integer GPT that makes one token's logits: tokens in, logits out, everything else on chip.
//
// LANES multipliers do all products, and never wait for what they have just made. Two dataflows
// alternate, so that the results of one lie where the other wants its operands:
//
//   a lane per output  An element of the input is broadcast, each lane adds up one output.
//                      Query, Key, Value, Up, Head, and Mix, which weighs the cached values.
//                      The results leave through a few requantisers while the next pass runs, and
//                      end in front of the lanes, or in their caches.
//   a lane per input   Each lane keeps an element of the input, a tree adds their products, and one
//                      output after another leaves it. Score, which meets the cached keys, and Out
//                      and Down, whose outputs are added to the residual stream as they come.
//
// Lanes stand in COLUMNS columns, one for each element of the vector if there are enough, and in
// GROUPS groups behind one another if there are more. Groups share the work of a pass by its beats:
// group g has elements, outputs and positions g, g + GROUPS, ...
//
// The timetable, in clocks from a beat's issue by the sequencer; every beat keeps to it, so passes
// follow one another without a gap, whatever they do:
//
//   0  the residual stream is read           7  products
//   2  normalised                            8  sums; the tree's first level
//   3  weights are read                      9  captured, if a pass ends
//   4  keys and values are read             10  requantised
//   6  operands and factors are chosen
//
// Weights are read in the order of the computation, at an address that only counts. So their memory
// need not know what they are, and an image (lib/silicon/image.py) may hold any model of the shape.
//
// Reset is synchronous, active low, at any time: it empties the context and forgets the token in
// work; memories keep what was loaded.

module core #(
  parameter int unsigned LANES    = 64,
  parameter int unsigned LAYERS   = 2,
  parameter int unsigned WIDTH    = 128,
  parameter int unsigned HEADS    = 4,
  parameter int unsigned BLOCK    = 64,
  parameter int unsigned VOCAB    = 97,
  parameter int unsigned WEIGHT_W = 8,  // bits of a weight, 4 to 8
  parameter int unsigned DRAIN    = 8,  // requantisers of the first dataflow: 1, 2, 4 or 8
  parameter bit          ULTRA    = 1'b0, // weights and cache in UltraRAM
  // Memories but Settings hold for good what files say: memory<1000 + 100 m + b>.hex bank b of
  // memory m, in the numbers of the load port; of weights all banks side by side, the first one
  // lowest.
  parameter bit          INIT     = 1'b0,
  parameter bit          SPLIT    = 1'b0 // multipliers take 18 bits: see requantise.sv
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
  localparam int unsigned Columns   = (LANES < WIDTH) ? LANES : WIDTH;
  localparam int unsigned Groups    = LANES / Columns;
  localparam int unsigned Chunks    = WIDTH / Columns;
  localparam int unsigned HeadWidth = WIDTH / HEADS;
  localparam int unsigned LaneHeads = Columns / HeadWidth;
  localparam int unsigned Banks     = Columns / 8;
  localparam int unsigned Slices    = (VOCAB + Columns - 1) / Columns;
  localparam int unsigned Beats     = WIDTH / Groups;
  localparam int unsigned GroupW    = $clog2(Groups);

  localparam int unsigned WeightRows    = LAYERS * 12 * Chunks * Beats;
  localparam int unsigned HeadRows      = Slices * Beats;
  localparam int unsigned Times         = (BLOCK + Groups - 1) / Groups;
  localparam int unsigned TimeW         = (Times > 1) ? $clog2(Times) : 1;
  localparam int unsigned CacheSlices   = (LAYERS * Chunks > 1) ? LAYERS * Chunks : 2;
  localparam int unsigned CacheRows     = CacheSlices << (TimeW + 1);
  localparam int unsigned ParameterRows = ((LAYERS * 7 * Chunks) + Slices) * (Columns / DRAIN);

  localparam int unsigned WeightRowW = $clog2(WeightRows);
  localparam int unsigned HeadRowW   = $clog2(HeadRows);
  localparam int unsigned CacheRowW  = $clog2(CacheRows);
  localparam int unsigned PositionW  = $clog2(BLOCK);
  localparam int unsigned LayerW     = (LAYERS > 1) ? $clog2(LAYERS) : 1;
  localparam int unsigned SliceW     = CacheRowW - TimeW - 1; // of the cache: a chunk of a layer
  localparam int unsigned ChunkW     = (Chunks > 1) ? $clog2(Chunks) : 1;
  localparam int unsigned RowW       = $clog2(Beats);
  localparam int unsigned BeatW = $clog2((WIDTH > BLOCK) ? Beats : ((BLOCK / Groups) + 1));
  localparam int unsigned WordW      = (Banks > 1) ? $clog2(Banks) : 1;

  // Levels of the tree: within a bank, up to a head's width, and over the heads.
  localparam int unsigned HeadLevels = $clog2(HeadWidth);
  localparam int unsigned Levels     = HeadLevels + $clog2(LaneHeads);

  // ---- Loading. The word waits in a register, whence it reaches every memory. ----
  typedef enum logic [3:0] {
    Weights, HeadWeights, DrainParameters, TreeParameters, Gelu, Token, Position, Rsqrt, Settings
  } memory_e;

  // The number of a memory's first file.
  localparam int unsigned File = INIT ? 1000 : 0;
  localparam int unsigned Files = INIT ? 100 : 0;

  logic        load_q;
  logic [3:0]  load_memory_q;
  logic [7:0]  load_bank_q;
  logic [19:0] load_row_q;
  logic [63:0] load_data_q;
  logic [8:0]  load; // a bit a memory

  always_ff @(posedge clk_i) begin
    if (!rst_ni) load_q <= 1'b0;
    else load_q <= load_valid_i;
  end

  always_ff @(posedge clk_i) begin
    if (load_valid_i) begin
      {load_memory_q, load_bank_q, load_row_q} <= load_address_i;
      load_data_q                              <= load_data_i;
    end
  end

  for (genvar m = 0; m < 9; m++) begin : g_load
    assign load[m] = load_q & (load_memory_q == 4'(m));
  end

  logic [Groups-1:0] load_group; // banks of memories with one a group
  logic [DRAIN-1:0]  load_drain;
  for (genvar g = 0; g < Groups; g++) begin : g_load_group
    assign load_group[g] = load_bank_q == 8'(g);
  end
  for (genvar d = 0; d < DRAIN; d++) begin : g_load_drain
    assign load_drain[d] = load_bank_q == 8'(d);
  end

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

  localparam int unsigned Places = 9 + Levels; // as far as the tree's root
  logic [Places-1:0]      score, tree, open, close, last;
  logic [9:0]             norm, mix;
  logic [8:0]             first;
  logic [9:0][3:0]        phase;
  logic [9:0][ChunkW-1:0] chunk;
  logic                   embed, start, idle;
  logic [BeatW-1:0]       beat;
  logic [7:0]             token;
  logic [PositionW-1:0]   position;

  logic [Places-2:0]      score_q, tree_q, open_q, close_q, last_q;
  logic [8:0]             norm_q, mix_q;
  logic [7:0]             first_q;
  logic [8:0][3:0]        phase_q;
  logic [8:0][ChunkW-1:0] chunk_q;

  assign score[Places-1:1] = score_q;
  assign tree[Places-1:1]  = tree_q;
  assign open[Places-1:1]  = open_q;
  assign close[Places-1:1] = close_q;
  assign last[Places-1:1]  = last_q;
  assign norm[9:1]         = norm_q;
  assign mix[9:1]          = mix_q;
  assign first[8:1]        = first_q;
  assign phase[9:1]        = phase_q;
  assign chunk[9:1]        = chunk_q;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) {norm_q, mix_q, score_q, tree_q} <= '0;
    else begin
      norm_q  <= norm[8:0];
      mix_q   <= mix[8:0];
      score_q <= score[Places-2:0];
      tree_q  <= tree[Places-2:0];
    end
  end

  always_ff @(posedge clk_i) begin
    open_q  <= open[Places-2:0];
    close_q <= close[Places-2:0];
    last_q  <= last[Places-2:0];
    first_q <= first[7:0];
    phase_q <= phase[8:0];
    chunk_q <= chunk[8:0];
  end

  logic unread, complete, norm_ready, mix_ready, hold_free, drained;

  sequencer #(
    .LAYERS(LAYERS), .WIDTH(WIDTH), .GROUPS(Groups), .CHUNKS(Chunks), .BLOCK(BLOCK), .VOCAB(VOCAB),
    .SLICES(Slices)
  ) u_sequencer (
    .clk_i,
    .rst_ni,
    .token_valid_i,
    .token_ready_o,
    .token_i,
    .bad_token_o,
    .unread_i    (unread),
    .complete_i  (complete),
    .norm_ready_i(norm_ready),
    .mix_ready_i (mix_ready),
    .hold_free_i (hold_free),
    .drained_i   (drained),
    .start_o     (start),
    .token_o     (token),
    .position_o  (position),
    .layer_o     (layer),
    .idle_o      (idle),
    .phase_o     (phase[0]),
    .beat_o      (beat),
    .chunk_o     (chunk[0]),
    .first_o     (first[0]),
    .last_o      (last[0]),
    .embed_o     (embed),
    .norm_o      (norm[0]),
    .mix_o       (mix[0]),
    .score_o     (score[0]),
    .tree_o      (tree[0]),
    .open_o      (open[0]),
    .close_o     (close[0])
  );

  // The multipliers' phase; Finish when they stand still in the middle of a token.
  logic busy_q;
  always_ff @(posedge clk_i) begin
    busy_q  <= norm[6] | mix[6] | score[6] | tree[6];
    phase_o <= busy_q ? phase[7] : embed ? Embed : idle ? Idle : Finish;
  end

  // ---- Clocks 3 and 4: addresses of weights and of the cache. They only count. ----
  logic                  read_weight, read_head, read_cache;
  logic [WeightRowW-1:0] weight_row_q;
  logic [HeadRowW-1:0]   head_row_q;
  logic [TimeW-1:0]      time_q;
  logic [SliceW-1:0]     slice_q;

  assign read_cache = score[4] | mix[4];

  // These reach every block of memory: no logic in front.
  always_ff @(posedge clk_i) begin
    read_head   <= norm[2] & (phase[2] == Head);
    read_weight <= (norm[2] & (phase[2] != Head)) | tree[2];
  end

  always_ff @(posedge clk_i) begin
    if (start) begin
      weight_row_q <= '0;
      head_row_q   <= '0;
      time_q       <= '0;
      slice_q      <= '0;
    end else begin
      if (read_weight) weight_row_q <= weight_row_q + 1'b1;
      if (read_head) head_row_q <= head_row_q + 1'b1;
      if (read_cache) time_q <= last[4] ? '0 : time_q + 1'b1;
      if (mix[4] && last[4]) slice_q <= slice_q + 1'b1;
    end
  end

  // ---- The lanes. ----
  logic                           read_stage, operand_load, operand_staged;
  logic                           factor_load, factor_cache, factor_head;
  logic                           multiply, accumulate, capture;
  logic [2:0]                     add;
  logic [8*Groups-1:0]            normalised;
  logic [8*Groups*LaneHeads-1:0]  weights;
  logic [32*Groups*Banks-1:0]     sums;      // a group's banks side by side
  logic [24*DRAIN*Banks-1:0]      hold;      // what the banks' next columns hold
  logic [Banks-1:0]               hold_next;

  logic                           word_valid, word_to_cache, word_to_stage;
  logic [WordW-1:0]               word_index;
  logic [63:0]                    word;
  logic                           cache_value_q;
  logic [SliceW-1:0]              cache_slice_q;
  logic [ChunkW-1:0]              stage_row_q;
  logic [CacheRowW-1:0]           cache_write_row;
  logic [Groups-1:0]              cache_group;

  assign read_stage     = (score[5] | tree[5]) & first[5];
  assign operand_load   = norm[6] | mix[6] | ((score[6] | tree[6]) & first[6]);
  assign operand_staged = score[6] | tree[6];
  assign factor_load    = norm[6] | mix[6] | score[6] | tree[6];
  assign factor_cache   = score[6] | mix[6];
  assign factor_head    = phase[6] == Head;
  assign multiply       = busy_q;
  assign accumulate     = norm[8] | mix[8];
  assign capture        = (norm[9] | mix[9]) & last[9];
  assign add            = score[10:8] | tree[10:8];

  localparam int unsigned EightW = 8 * WEIGHT_W;
  logic [EightW*Groups*Banks-1:0] factors, head_factors; // a group's banks side by side

  weights #(
    .EIGHTS(Groups * Banks), .WEIGHT_W(WEIGHT_W), .ROWS(WeightRows), .HEAD_ROWS(HeadRows),
    .ULTRA(ULTRA), .INIT(INIT)
  ) u_weights (
    .clk_i,
    .rst_ni,
    .load_i     (load[Weights]),
    .load_head_i(load[HeadWeights]),
    .load_bank_i(load_bank_q),
    .load_row_i (load_row_q),
    .load_data_i(load_data_q),
    .read_i     (read_weight),
    .row_i      (weight_row_q),
    .weights_o  (factors),
    .read_head_i(read_head),
    .head_row_i (head_row_q),
    .head_o     (head_factors)
  );

  // Passes over the context may be longer than those over the width, whose rows need fewer bits.
  logic unused;
  assign unused = ^beat;

  for (genvar b = 0; b < Banks; b++) begin : g_bank
    logic [32*Groups-1:0]    sum;
    logic [EightW*Groups-1:0] word_weights, word_head;

    for (genvar g = 0; g < Groups; g++) begin : g_group
      assign word_weights[EightW*g +: EightW] = factors[EightW*((Banks*g)+b) +: EightW];
      assign word_head[EightW*g +: EightW]    = head_factors[EightW*((Banks*g)+b) +: EightW];
      assign sums[32*(Banks*g+b) +: 32]       = sum[32*g +: 32];
    end

    bank #(
      .GROUPS(Groups), .WEIGHT_W(WEIGHT_W), .CACHE_ROWS(CacheRows), .STAGE_ROWS(Chunks),
      .DRAIN(DRAIN), .ULTRA(ULTRA)
    ) u_bank (
      .clk_i,
      .write_cache_i    (cache_group & {Groups{word_to_cache & (word_index == WordW'(b))}}),
      .write_cache_row_i(cache_write_row),
      .write_stage_i    (word_to_stage & (word_index == WordW'(b))),
      .write_stage_row_i(stage_row_q),
      .write_data_i     (word),
      .read_cache_i     (read_cache),
      .cache_row_i      ({slice_q, mix[4], time_q}),
      .read_stage_i     (read_stage),
      .stage_row_i      (chunk[5]),
      .operand_load_i   (operand_load),
      .operand_staged_i (operand_staged),
      .operand_mix_i    (mix[6]),
      .norm_i           (normalised),
      .weight_i         (weights[8*Groups*((8*b)/HeadWidth) +: 8*Groups]),
      .weights_i        (word_weights),
      .head_i           (word_head),
      .factor_load_i    (factor_load),
      .factor_cache_i   (factor_cache),
      .factor_head_i    (factor_head),
      .multiply_i       (multiply),
      .accumulate_i     (accumulate),
      .first_i          (first[8]),
      .capture_i        (capture),
      .add_i            (add),
      .sum_o            (sum),
      .next_i           (hold_next[b]),
      .hold_o           (hold[24*DRAIN*b +: 24*DRAIN])
    );
  end

  // ---- The tree above the banks: tapped at the heads, for scores, and at its root. ----
  localparam int unsigned UpperLevels = HeadLevels - 3;
  localparam int unsigned RootLevels  = Levels - HeadLevels;
  localparam int unsigned UpperW      = (UpperLevels > 0) ? UpperLevels : 1;
  localparam int unsigned RootW       = (RootLevels > 0) ? RootLevels : 1;
  localparam int unsigned HeadBanks   = HeadWidth / 8;

  logic [32*Groups*LaneHeads-1:0] dots; // a head's groups side by side
  logic [32*Groups-1:0]           root;

  for (genvar g = 0; g < Groups; g++) begin : g_tree
    logic [32*LaneHeads-1:0] heads;

    for (genvar h = 0; h < LaneHeads; h++) begin : g_head
      adder_tree #(.INPUTS(HeadBanks), .TERM_W(20)) u_tree (
        .clk_i,
        .advance_i(score[11 +: UpperW] | tree[11 +: UpperW]),
        .terms_i  (sums[32*(Banks*g+HeadBanks*h) +: 32*HeadBanks]),
        .sum_o    (heads[32*h +: 32])
      );
      assign dots[32*(Groups*h+g) +: 32] = heads[32*h +: 32];
    end

    adder_tree #(.INPUTS(LaneHeads), .TERM_W(17 + HeadLevels)) u_root (
      .clk_i,
      .advance_i(tree[8+HeadLevels +: RootW]),
      .terms_i  (heads),
      .sum_o    (root[32*g +: 32])
    );
  end

  // ---- First dataflow: out of the lanes, and back in front of them or into the cache. ----
  logic [16*LaneHeads-1:0] reciprocal;
  logic [6*LaneHeads-1:0]  reciprocal_shift;
  logic [5:0]              drain_shift;
  logic                    logits_valid, to_cache_q;
  logic [16*DRAIN-1:0]     logits_row;

  assign drain_shift = (phase[9] == Head) ? head_shift : (phase[9] == Up) ? up_shift : qkv_shift;

  always_ff @(posedge clk_i) begin
    if (capture) begin
      to_cache_q    <= (phase[9] == Key) | (phase[9] == Value);
      cache_value_q <= phase[9] == Value;
      cache_slice_q <= slice_q;
      stage_row_q   <= chunk[9];
    end
  end

  drain #(
    .COLUMNS(Columns), .HEAD_WIDTH(HeadWidth), .DRAIN(DRAIN), .LAYERS(LAYERS), .ROWS(ParameterRows),
    .INIT_PARAMETERS(File + (2 * Files)), .INIT_GELU(File + (4 * Files)),
    .SPLIT(SPLIT)
  ) u_drain (
    .clk_i,
    .rst_ni,
    .load_parameter_i  (load_drain & {DRAIN{load[DrainParameters]}}),
    .load_gelu_i       (load[Gelu]),
    .load_row_i        (load_row_q),
    .load_data_i       (load_data_q[39:0]),
    .token_start_i     (start),
    .layer_i           (layer),
    .start_i           (capture),
    .mix_i             (mix[9]),
    .to_gelu_i         (phase[9] == Up),
    .to_logits_i       (phase[9] == Head),
    .shift_i           (drain_shift),
    .next_o            (hold_next),
    .hold_i            (hold),
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

  assign word_to_cache = word_valid & to_cache_q;
  assign word_to_stage = word_valid & ~to_cache_q;

  // Position t lies in group t mod GROUPS. Keys and values of a chunk lie behind one another.
  if (Groups > 1) begin : g_position
    for (genvar g = 0; g < Groups; g++) begin : g_group
      assign cache_group[g] = position[GroupW-1:0] == GroupW'(g);
    end
    assign cache_write_row = {cache_slice_q, cache_value_q, TimeW'(position[PositionW-1:GroupW])};
  end else begin : g_position
    assign cache_group     = 1'b1;
    assign cache_write_row = {cache_slice_q, cache_value_q, TimeW'(position)};
  end

  logits #(.VOCAB(VOCAB), .DRAIN(DRAIN), .ROWS(Slices * (Columns / DRAIN))) u_logits (
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
  localparam int unsigned CountW = $clog2(Groups + 1);
  logic [CountW-1:0] count;

  if (Groups > 1) begin : g_count
    assign count = CountW'(position[GroupW-1:0]) + 1'b1;
  end else begin : g_count
    assign count = 1'b1;
  end

  attention #(
    .HEADS(LaneHeads), .GROUPS(Groups), .BLOCK(BLOCK), .SPLIT(SPLIT)
  ) u_attention (
    .clk_i,
    .rst_ni,
    .multiplier_i      (score_multiplier),
    .shift_i           (score_shift),
    .mix_shift_i       (mix_shift),
    .valid_i           (score[8+HeadLevels]),
    .last_i            (last[8+HeadLevels]),
    .count_i           (count),
    .dots_i            (dots),
    .ready_o           (mix_ready),
    .take_i            (mix[6]),
    .weights_o         (weights),
    .reciprocal_o      (reciprocal),
    .reciprocal_shift_o(reciprocal_shift)
  );

  // ---- Second dataflow: the residual stream. ----
  logic                   embed_valid;
  logic [16*Groups-1:0]   embedded;
  logic [5:0]             tree_shift_q;

  embedding #(
    .WIDTH(WIDTH), .GROUPS(Groups), .BLOCK(BLOCK), .VOCAB(VOCAB), .INIT_TOKEN(File + (5 * Files)),
    .INIT_POSITION(File + (6 * Files))
  ) u_embedding (
    .clk_i,
    .rst_ni,
    .shift_i        (embed_shift),
    .load_token_i   (load_group & {Groups{load[Token]}}),
    .load_position_i(load_group & {Groups{load[Position]}}),
    .load_row_i     (load_row_q),
    .load_data_i    (load_data_q[7:0]),
    .embed_i        (embed),
    .token_i        (token),
    .position_i     (position),
    .beat_i         (beat[RowW-1:0]),
    .valid_o        (embed_valid),
    .value_o        (embedded)
  );

  // The layer may have changed when the last sums of Down are requantised: their shift may not.
  always_ff @(posedge clk_i) begin
    if (tree[0] && first[0]) tree_shift_q <= (phase[0] == Out) ? out_shift : down_shift;
  end

  residual #(
    .LAYERS(LAYERS), .WIDTH(WIDTH), .GROUPS(Groups), .INIT_PARAMETERS(File + (3 * Files)),
    .INIT_RSQRT(File + (7 * Files)), .SPLIT(SPLIT)
  ) u_residual (
    .clk_i,
    .rst_ni,
    .load_parameter_i(load_group & {Groups{load[TreeParameters]}}),
    .load_rsqrt_i    (load[Rsqrt]),
    .load_row_i      (load_row_q),
    .load_data_i     (load_data_q[39:0]),
    .epsilon_i       (epsilon),
    .rsqrt_shift_i   (rsqrt_shift),
    .start_i         (start),
    .embed_valid_i   (embed_valid),
    .embed_i         (embedded),
    .norm_i          (norm[0]),
    .norm_row_i      (beat[RowW-1:0]),
    .norm_o          (normalised),
    .norm_ready_o    (norm_ready),
    .sum_soon_i      (tree[6+Levels]),
    .open_i          (open[6+Levels]),
    .close_i         (close[6+Levels]),
    .shift_i         (tree_shift_q),
    .sum_i           (root)
  );
endmodule
