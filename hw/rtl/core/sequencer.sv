// What is computed when: a walk through the passes of every layer, one beat a clock.
//
// A pass is a run of beats that belong together: an eighth of a matrix, say, or one head's scores.
//
//   Embed                                             the residual stream of the token
//   per layer, per chunk   Query Key Score Value Mix  attention of the heads that the lanes hold
//   per layer, per chunk   Out                        their output product
//   per layer              Up Up Down Up Down ... Up Down Down
//   Head ...                                          slices of the logits
//
// The order is what hides every drain: while the results of one pass are requantised, another that
// does not need them has the multipliers. So no pass waits but for the statistics of a norm, once
// before attention and once before Up, and for the last chunk's Mix if there is a single chunk.
// Short contexts and many lanes make passes shorter than a drain; then the conditions under `go`
// hold a beat back. They depend on the position alone, never on data.
//
// A beat issued here takes a fixed way through the core. phase_o, norm_o ... close_o are registers:
// the beat's clock 0.
//
// Once BLOCK tokens are cached, the next one makes the core forget all but the last BLOCK / 2 and
// compute these again at positions 0 and up: learned positions end at BLOCK.

module sequencer #(
  parameter int unsigned LAYERS = 2,
  parameter int unsigned WIDTH  = 128,
  parameter int unsigned GROUPS = 1,
  parameter int unsigned CHUNKS = 2,
  parameter int unsigned BLOCK  = 64,
  parameter int unsigned VOCAB  = 97,
  // Passes of the head.
  parameter int unsigned SLICES = 2,
  // Derived; not to be set.
  parameter int unsigned POSITION_W = $clog2(BLOCK),
  parameter int unsigned LAYER_W    = (LAYERS > 1) ? $clog2(LAYERS) : 1,
  parameter int unsigned CHUNK_W    = (CHUNKS > 1) ? $clog2(CHUNKS) : 1,
  parameter int unsigned BEATS      = (WIDTH > BLOCK) ? WIDTH / GROUPS : (BLOCK / GROUPS) + 1,
  parameter int unsigned BEAT_W     = $clog2(BEATS)
) (
  input  logic                  clk_i,
  input  logic                  rst_ni,

  input  logic                  token_valid_i,
  output logic                  token_ready_o,
  input  logic [7:0]            token_i,
  output logic                  bad_token_o,

  // What the rest of the core reports.
  input  logic                  unread_i,    // logits wait for their reader
  input  logic                  complete_i,  // all logits of the token are there
  input  logic                  norm_ready_i,
  input  logic                  mix_ready_i, // weights of attention are there
  input  logic                  hold_free_i,
  input  logic                  drained_i,

  // The token.
  output logic                  start_o,
  output logic [7:0]            token_o,
  output logic [POSITION_W-1:0] position_o,
  output logic [LAYER_W-1:0]    layer_o,
  output logic                  idle_o,

  // The beat.
  output logic [3:0]            phase_o,
  output logic [BEAT_W-1:0]     beat_o,
  output logic [CHUNK_W-1:0]    chunk_o,
  output logic                  first_o,
  output logic                  last_o,
  output logic                  embed_o,
  output logic                  norm_o,  // first dataflow, operands from the norm
  output logic                  mix_o,   // first dataflow, operands from softmax
  output logic                  score_o, // second dataflow, a sum a head
  output logic                  tree_o,  // second dataflow, one sum
  output logic                  open_o,  // of the latter: the first slice of the inputs
  output logic                  close_o  // and the last one
);
  typedef enum logic [3:0] {
    Idle, Fetch, Embed, Query, Key, Score, Value, Mix, Out, Up, Down, Head, Finish, Next, Recall
  } phase_e;

  localparam int unsigned Half      = BLOCK / 2;
  localparam int unsigned GroupW    = $clog2(GROUPS);
  localparam int unsigned UpW       = $clog2(4 * CHUNKS);
  localparam int unsigned MostSteps = (SLICES > CHUNKS) ? SLICES : CHUNKS;
  localparam int unsigned StepW     = (MostSteps > 1) ? $clog2(MostSteps) : 1;

  localparam logic [BEAT_W-1:0]  LastBeat  = BEAT_W'((WIDTH / GROUPS) - 1);
  localparam logic [StepW-1:0]   LastChunk = StepW'(CHUNKS - 1);
  localparam logic [StepW-1:0]   LastSlice = StepW'(SLICES - 1);
  localparam logic [UpW-1:0]     LastUp    = UpW'((4 * CHUNKS) - 1);
  localparam logic [LAYER_W-1:0] LastLayer = LAYER_W'(LAYERS - 1);

  phase_e             phase_q, phase_d;
  logic [BEAT_W-1:0]  beat_q;
  logic [StepW-1:0]   step_q, step_d; // chunk, or slice of the head
  logic [UpW-1:0]     up_q, up_d;     // slice of the feed-forward
  logic               final_q, final_d;
  logic [LAYER_W-1:0] layer_q, layer_d;

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

  // ---- What has to have happened before a beat. ----
  //
  // pending_q counts passes whose results are still on their way to where they are read; at most
  // the last two passes of the first dataflow are. hold_busy_q says that the registers between
  // lanes and requantisers are not empty, or will not be when this beat reaches them.
  logic       go, issue, last_beat, norm_valid_q, hold_busy_q, collects;
  logic [1:0] pending_q, allowed;
  logic       norm_pass, tree_pass;
  logic [BEAT_W-1:0] final_beat;

  assign norm_pass = (phase_q == Query) | (phase_q == Key) | (phase_q == Value) | (phase_q == Up)
                     | (phase_q == Head);
  assign tree_pass = (phase_q == Out) | (phase_q == Down);
  assign last_beat = beat_q == final_beat;
  assign collects  = last_beat & (norm_pass | (phase_q == Mix));

  if (GROUPS > 1) begin : g_position
    assign final_beat = ((phase_q == Score) | (phase_q == Mix))
                        ? BEAT_W'(position_q[POSITION_W-1:GroupW]) : LastBeat;
  end else begin : g_position
    assign final_beat = ((phase_q == Score) | (phase_q == Mix))
                        ? BEAT_W'(position_q[POSITION_W-1:0]) : LastBeat;
  end

  logic open_d, close_d;
  assign open_d  = (phase_q == Out) ? step_q == '0 : ~final_q & (up_q == UpW'(1));
  assign close_d = (phase_q == Out) ? step_q == LastChunk : final_q;

  always_comb begin
    // The newest key and value are needed by the last beat only, and a chunk's operands may still
    // lie two passes back.
    unique case (phase_q)
      Score, Mix: allowed = {1'b0, ~last_beat};
      Out:        allowed = {1'b0, step_q != LastChunk};
      Down:       allowed = {1'b0, ~final_q};
      default:    allowed = 2'd2;
    endcase
    unique case (phase_q)
      Embed:      go = 1'b1;
      Query, Key, Value, Up, Head: begin
        go = (norm_valid_q | norm_ready_i) & ~(last_beat & hold_busy_q);
      end
      Mix:        go = ((beat_q != '0) | mix_ready_i) & ~(last_beat & hold_busy_q);
      Score, Out, Down: go = 1'b1;
      default:    go = 1'b0;
    endcase
    issue = go & (pending_q <= allowed);
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      pending_q    <= '0;
      hold_busy_q  <= 1'b0;
      norm_valid_q <= 1'b0;
    end else begin
      pending_q <= pending_q + 2'(issue & collects) - 2'(drained_i);
      if (issue & collects) hold_busy_q <= 1'b1;
      else if (hold_free_i) hold_busy_q <= 1'b0;
      if ((issue & tree_pass & close_d) | (phase_q == Fetch)) norm_valid_q <= 1'b0;
      else if (norm_ready_i) norm_valid_q <= 1'b1;
    end
  end

  // ---- The walk. ----
  always_comb begin
    phase_d = phase_q;
    step_d  = step_q;
    up_d    = up_q;
    final_d = final_q;
    layer_d = layer_q;
    advance = 1'b0;
    unique case (phase_q)
      Idle: begin
        layer_d = '0;
        step_d  = '0;
        if (take) phase_d = Recall;
      end
      Recall: phase_d = Fetch; // an old token is read
      Fetch:  phase_d = Embed;
      Finish: begin
        advance = complete_i;
        if (complete_i) phase_d = Idle;
      end
      Next: begin
        advance = norm_valid_q;
        layer_d = '0;
        if (norm_valid_q) phase_d = Recall;
      end
      default: begin
        if (issue && last_beat) begin
          unique case (phase_q)
            Embed: phase_d = Query;
            Query: phase_d = Key;
            Key:   phase_d = Score;
            Score: phase_d = Value;
            Value: phase_d = Mix;
            Mix: begin
              phase_d = (step_q == LastChunk) ? Out : Query;
              step_d  = (step_q == LastChunk) ? '0 : step_q + 1'b1;
            end
            Out: begin
              if (step_q == LastChunk) phase_d = Up;
              step_d  = (step_q == LastChunk) ? '0 : step_q + 1'b1;
              up_d    = '0;
              final_d = 1'b0;
            end
            Up: begin
              if (up_q == '0) up_d = UpW'(1);
              else phase_d = Down;
            end
            Down: begin
              if (!final_q) begin
                if (up_q == LastUp) final_d = 1'b1;
                else begin
                  phase_d = Up;
                  up_d    = up_q + 1'b1;
                end
              end else if (layer_q != LastLayer) begin
                phase_d = Query;
                layer_d = layer_q + 1'b1;
              end else begin
                phase_d = replay_q ? Next : Head;
              end
            end
            Head: begin
              if (step_q == LastSlice) phase_d = Finish;
              step_d = (step_q == LastSlice) ? '0 : step_q + 1'b1;
            end
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
    up_q    <= up_d;
    final_q <= final_d;
    layer_q <= layer_d;
  end

  // ---- The beat's clock 0. ----
  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      {start_o, embed_o, norm_o, mix_o, score_o, tree_o} <= '0;
      phase_o <= Idle;
    end else begin
      start_o <= (phase_q == Embed) & (beat_q == '0);
      embed_o <= phase_q == Embed;
      norm_o  <= issue & norm_pass;
      mix_o   <= issue & (phase_q == Mix);
      score_o <= issue & (phase_q == Score);
      tree_o  <= issue & tree_pass;
      phase_o <= phase_q;
    end
  end

  always_ff @(posedge clk_i) begin
    beat_o  <= beat_q;
    chunk_o <= CHUNK_W'(step_q);
    first_o <= beat_q == '0;
    last_o  <= last_beat;
    open_o  <= open_d;
    close_o <= close_d;
  end

  assign token_o    = token_q;
  assign position_o = position_q[POSITION_W-1:0];
  assign layer_o    = layer_q;
  assign idle_o     = phase_q == Idle;
endmodule
