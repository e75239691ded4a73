// What is computed when: a walk through the passes of every layer, one beat a clock, where a pass
// of a matrix lasts as long as the image says.
//
//   Embed                                         the residual stream of the token
//   per layer   Query Key, for every chunk        rows of the lanes, one after another
//               Score                             of the first chunk's heads
//               Value, for every chunk
//               Mix, then Score Mix, Score Mix ... of the further chunks
//               Out ..., Up ..., Down ...
//   Head ...                                      slices of the logits
//
// Lanes run through a whole matrix (Query to Value are one) without waiting for one another, each
// at its own row; a pass ends where the slowest lane has finished the pass' row. LENGTHS rows of a
// memory, read in the order of the passes, say how many beats that are, less one. The lanes' sums
// survive a Score between two passes, but not a Mix: so all of Value comes before any Mix.
//
// A vector is filled into the lanes' copies while it is already being read: the image never asks
// for an element before it is there, and puts entries of weight 0 where it would. It counts on LEAD
// clocks from the fill's first row to the pass' first beat, and on Out and Down following their
// vectors' last passes at once, or later. So nothing but a norm is waited for here.
//
// All of this depends on the model and on the position alone, never on data.
//
// Once BLOCK tokens are cached, the next one makes the core forget all but the last BLOCK / 2 and
// compute these again at positions 0 and up: learned positions end at BLOCK.

module sparse_sequencer #(
  parameter int unsigned LAYERS   = 2,
  parameter int unsigned CHUNKS   = 2,
  parameter int unsigned BLOCK    = 64,
  parameter int unsigned VOCAB    = 97,
  parameter int unsigned SLICES   = 2,  // passes of the head
  parameter int unsigned FILL     = 32, // clocks that the stream takes to be made, or to be read
  parameter int unsigned LENGTH_W = 10, // bits of a pass' length
  parameter int unsigned LEAD     = 6,
  // Derived; not to be set.
  parameter int unsigned LENGTHS    = (LAYERS * 9 * CHUNKS) + SLICES,
  parameter int unsigned POSITION_W = $clog2(BLOCK),
  parameter int unsigned LAYER_W    = (LAYERS > 1) ? $clog2(LAYERS) : 1,
  parameter int unsigned CHUNK_W    = (CHUNKS > 1) ? $clog2(CHUNKS) : 1,
  parameter int unsigned SLICE_W    = (LAYERS * CHUNKS > 1) ? $clog2(LAYERS * CHUNKS) : 1,
  parameter int unsigned FILL_W     = $clog2(FILL)
) (
  input  logic                  clk_i,
  input  logic                  rst_ni,

  input  logic                  load_length_i,
  input  logic [19:0]           load_row_i,
  input  logic [LENGTH_W-1:0]   load_data_i,

  input  logic                  token_valid_i,
  output logic                  token_ready_o,
  input  logic [7:0]            token_i,
  output logic                  bad_token_o,

  // What the rest of the core reports.
  input  logic                  unread_i,    // logits wait for their reader
  input  logic                  complete_i,  // all logits of the token are there
  input  logic                  norm_ready_i,
  input  logic                  mix_ready_i, // weights of attention are there
  input  logic                  sums_free_i, // the last pass' sums have left the lanes
  input  logic                  drained_i,   // and are requantised

  // The token.
  output logic                  start_o,
  output logic [7:0]            token_o,
  output logic [POSITION_W-1:0] position_o,
  output logic [LAYER_W-1:0]    layer_o,
  output logic [SLICE_W-1:0]    slice_o,     // of the cache: the layer's first chunk
  output logic                  idle_o,

  // The normalised vector on its way into the copies.
  output logic                  fill_o,
  output logic [FILL_W-1:0]     fill_row_o,

  // The beat.
  output logic [3:0]            phase_o,
  output logic [FILL_W-1:0]     embed_row_o,
  output logic [CHUNK_W-1:0]    chunk_o,
  output logic                  first_o,
  output logic                  last_o,
  output logic                  embed_o,
  output logic                  matrix_o,
  output logic                  mix_o,
  output logic                  score_o
);
  typedef enum logic [3:0] {
    Idle, Fetch, Embed, Query, Key, Score, Value, Mix, Out, Up, Down, Head, Finish, Next, Recall
  } phase_e;

  localparam int unsigned Half      = BLOCK / 2;
  localparam int unsigned MostSteps = (SLICES > 4 * CHUNKS) ? SLICES : 4 * CHUNKS;
  localparam int unsigned StepW     = $clog2(MostSteps);
  localparam int unsigned RowW      = $clog2(LENGTHS);
  localparam int unsigned LongW     = (LENGTH_W > FILL_W) ? LENGTH_W : FILL_W;
  localparam int unsigned BeatW     = (LongW > POSITION_W) ? LongW : POSITION_W;

  localparam logic [StepW-1:0]   LastChunk = StepW'(CHUNKS - 1);
  localparam logic [StepW-1:0]   LastUp    = StepW'((4 * CHUNKS) - 1);
  localparam logic [StepW-1:0]   LastSlice = StepW'(SLICES - 1);
  localparam logic [LAYER_W-1:0] LastLayer = LAYER_W'(LAYERS - 1);

  phase_e             phase_q, phase_d;
  logic [BeatW-1:0]   beat_q;
  logic [StepW-1:0]   step_q, step_d, last_step; // a matrix' pass
  logic [LAYER_W-1:0] layer_q, layer_d;
  logic [SLICE_W-1:0] slice_q, slice_d;

  // ---- The context. ----
  //
  // history[p] is the token at position p. position_q is the token in work, or the next one, and
  // BLOCK when the cache is full. During a refill the tokens are read from half a block above.
  logic [POSITION_W:0]   position_q;
  logic                  replay_q;
  logic [7:0]            given_q, token_q, old;
  logic                  take, bad, advance;
  logic [POSITION_W-1:0] old_row;

  assign token_ready_o = (phase_q == Idle) & ~unread_i;
  assign bad           = 32'(token_i) >= VOCAB;
  assign take          = token_valid_i & token_ready_o & ~bad;
  assign old_row       = position_q[POSITION_W-1:0] + POSITION_W'(Half);

  memory #(.WIDTH(8), .DEPTH(BLOCK), .OUTPUT(1'b0)) u_history (
    .clk_i,
    .write_i     (start_o),
    .write_row_i (position_q[POSITION_W-1:0]),
    .write_data_i(token_q),
    .read_i      (1'b1),
    .read_row_i  (old_row),
    .read_data_o (old)
  );

  always_ff @(posedge clk_i) begin
    if (!rst_ni) bad_token_o <= 1'b0;
    else bad_token_o <= token_valid_i & token_ready_o & bad;
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      position_q <= '0;
      replay_q   <= 1'b0;
    end else if (take && position_q == (POSITION_W + 1)'(BLOCK)) begin
      position_q <= '0;
      replay_q   <= 1'b1;
    end else if (advance) begin
      position_q <= position_q + 1'b1;
      if (position_q == (POSITION_W + 1)'(Half - 1)) replay_q <= 1'b0;
    end
  end

  always_ff @(posedge clk_i) begin
    if (take) given_q <= token_i;
    if (phase_q == Fetch) token_q <= replay_q ? old : given_q;
  end

  // ---- Lengths: the next one is read when a pass ends. ----
  logic                matrix_pass, stream_pass, issue, last_beat;
  logic [RowW-1:0]     length_row_q;
  logic                read_length;
  logic [LENGTH_W-1:0] length;

  assign read_length = (phase_q == Fetch) | (issue & last_beat & matrix_pass);

  memory #(.WIDTH(LENGTH_W), .DEPTH(LENGTHS), .OUTPUT(1'b0)) u_lengths (
    .clk_i,
    .write_i     (load_length_i),
    .write_row_i (load_row_i[RowW-1:0]),
    .write_data_i(load_data_i),
    .read_i      (read_length),
    .read_row_i  (length_row_q),
    .read_data_o (length)
  );

  always_ff @(posedge clk_i) begin
    if (phase_q == Recall) length_row_q <= '0;
    else if (read_length) length_row_q <= length_row_q + 1'b1;
  end

  logic unused;
  assign unused = ^load_row_i;

  // ---- The fill: as soon as the norm's statistics are there. ----
  logic [FILL_W-1:0] fill_row_q;
  logic              fill_q, filling_q, norm_valid_q;
  logic [LEAD-2:0]   ready_q;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) {fill_q, filling_q, norm_valid_q, ready_q} <= '0;
    else begin
      ready_q <= {ready_q[LEAD-3:0], norm_ready_i};
      if (norm_ready_i) fill_q <= 1'b1;
      else if (fill_row_q == FILL_W'(FILL - 1)) fill_q <= 1'b0;
      filling_q <= fill_q;
      if ((issue & stream_pass) | (phase_q == Fetch)) norm_valid_q <= 1'b0;
      else if (ready_q[LEAD-2]) norm_valid_q <= 1'b1;
    end
  end

  always_ff @(posedge clk_i) begin
    if (norm_ready_i) fill_row_q <= '0;
    else fill_row_q <= fill_row_q + 1'b1;
  end

  assign fill_o     = fill_q;
  assign fill_row_o = fill_row_q;

  // ---- What has to have happened before a beat. ----
  //
  // pending_q counts passes whose results are still on their way to the cache or the stage; at most
  // the last two are. busy_q says that sums of a pass are still to leave the lanes, or will be when
  // this beat reaches them: one pass empties at a time. Nor does a pass end during a fill, whose
  // way into the copies its results would cross.
  //
  // mixable_q: weights wait for a Mix that was not issued yet. mix_ready_i alone does not say so,
  // since those of the Mix before are still there when its last beat has long been issued.
  logic             go, busy_q, collects, delivers, mix_ready_q, mixable, mixable_q;
  logic [1:0]       pending_q, allowed;
  logic [BeatW-1:0] final_beat;

  assign stream_pass = (phase_q == Out) | (phase_q == Down);
  assign matrix_pass = stream_pass | (phase_q == Query) | (phase_q == Key) | (phase_q == Value)
                       | (phase_q == Up) | (phase_q == Head);
  assign final_beat  = (phase_q == Embed) ? BeatW'(FILL - 1)
                       : matrix_pass ? BeatW'(length) : BeatW'(position_q[POSITION_W-1:0]);
  assign last_beat   = beat_q == final_beat;
  assign collects    = last_beat & (matrix_pass | (phase_q == Mix));
  assign delivers    = issue & collects & ~stream_pass;

  always_comb begin
    // Score and Mix need the newest key and value with the last beat only. They are a pass back, or
    // as many as there are chunks; and of a query it is the same.
    unique case (phase_q)
      Score:   allowed = (CHUNKS > 1) ? 2'd2 : {1'b0, ~last_beat};
      Mix:     allowed = last_beat ? ((CHUNKS > 1) ? 2'd1 : 2'd0) : 2'd2;
      default: allowed = 2'd2;
    endcase
    unique case (phase_q)
      Embed, Score:                go = 1'b1;
      Query, Key, Value, Up, Head: go = norm_valid_q;
      Mix:                         go = (beat_q != '0) | mixable;
      Out, Down:                   go = 1'b1;
      default:                     go = 1'b0;
    endcase
    issue = go & (pending_q <= allowed) & ~(collects & (busy_q | filling_q));
  end

  assign mixable = mixable_q | (mix_ready_i & ~mix_ready_q);

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      pending_q   <= '0;
      busy_q      <= 1'b0;
      mixable_q   <= 1'b0;
      mix_ready_q <= 1'b0;
    end else begin
      mix_ready_q <= mix_ready_i;
      mixable_q   <= mixable & ~(issue & last_beat & (phase_q == Mix));
      pending_q <= pending_q + 2'(delivers) - 2'(drained_i);
      if (issue & collects) busy_q <= 1'b1;
      else if (sums_free_i) busy_q <= 1'b0;
    end
  end

  // ---- The walk. ----
  assign last_step = (phase_q == Up) ? LastUp : (phase_q == Head) ? LastSlice : LastChunk;

  always_comb begin
    phase_d = phase_q;
    step_d  = step_q;
    layer_d = layer_q;
    slice_d = slice_q;
    advance = 1'b0;
    unique case (phase_q)
      Idle: if (take) phase_d = Recall;
      Recall: begin // an old token is read
        phase_d = Fetch;
        step_d  = '0;
        layer_d = '0;
        slice_d = '0;
      end
      Fetch: phase_d = Embed;
      Finish: begin
        advance = complete_i;
        if (complete_i) phase_d = Idle;
      end
      Next: begin
        advance = norm_valid_q;
        if (norm_valid_q) phase_d = Recall;
      end
      default: begin
        if (issue && last_beat) begin
          step_d = (step_q == last_step) ? '0 : step_q + 1'b1;
          unique case (phase_q)
            Embed: begin
              phase_d = Query;
              step_d  = '0;
            end
            Query: begin
              phase_d = Key;
              step_d  = step_q;
            end
            Key: phase_d = (step_q == LastChunk) ? Score : Query;
            Score: begin
              phase_d = (step_q == '0) ? Value : Mix;
              step_d  = step_q;
            end
            Value: if (step_q == LastChunk) phase_d = Mix;
            Mix:   phase_d = (step_q == LastChunk) ? Out : Score;
            Out:   if (step_q == LastChunk) phase_d = Up;
            Up:    if (step_q == LastUp) phase_d = Down;
            Down: begin
              if (step_q == LastChunk && layer_q != LastLayer) begin
                phase_d = Query;
                layer_d = layer_q + 1'b1;
                slice_d = slice_q + SLICE_W'(CHUNKS);
              end else if (step_q == LastChunk) begin
                phase_d = replay_q ? Next : Head;
              end
            end
            Head:    if (step_q == LastSlice) phase_d = Finish;
            default: phase_d = Idle;
          endcase
        end
      end
    endcase
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      phase_q <= Idle;
      beat_q  <= '0;
    end else begin
      phase_q <= phase_d;
      if (issue) beat_q <= last_beat ? '0 : beat_q + 1'b1;
    end
  end

  always_ff @(posedge clk_i) begin
    step_q  <= step_d;
    layer_q <= layer_d;
    slice_q <= slice_d;
  end

  // ---- The beat's clock 0. ----
  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      {start_o, embed_o, matrix_o, mix_o, score_o} <= '0;
      phase_o <= Idle;
    end else begin
      start_o  <= (phase_q == Embed) & (beat_q == '0);
      embed_o  <= phase_q == Embed;
      matrix_o <= issue & matrix_pass;
      mix_o    <= issue & (phase_q == Mix);
      score_o  <= issue & (phase_q == Score);
      phase_o  <= phase_q;
    end
  end

  always_ff @(posedge clk_i) begin
    embed_row_o <= beat_q[FILL_W-1:0];
    chunk_o     <= CHUNK_W'(step_q);
    first_o     <= beat_q == '0;
    last_o      <= last_beat;
  end

  assign token_o    = token_q;
  assign position_o = position_q[POSITION_W-1:0];
  assign layer_o    = layer_q;
  assign slice_o    = slice_q;
  assign idle_o     = phase_q == Idle;
endmodule
