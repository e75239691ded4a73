// Serves the host's requests: each frame that frame_rx.sv shows is answered by exactly one.
//
// A reply has the request's sequence number and its kind with bit 7 set. Its payload begins with
//
//   status (1 byte), nonce (2), context (2: tokens fed since the last reset, modulo 2^16)
//
// and goes on, if the status is Done, as follows. All numbers have their lowest byte first.
//
//   1 Hello   -> version (1), lanes (2), layers (1), width (2), heads (1), block (2), vocab (2),
//                weight bits (1), drain (1), bytes of a load word (1), model (8)
//   2 Reset   nonce (2) ->           forgets the context, keeps the nonce
//   3 Load    address (4), words ->  written to consecutive addresses; the model loses its name
//                                    (with FIXED this and 4 are refused as ReadOnly)
//   4 Model   name (8) ->            of what has been loaded; 0 for none
//   5 Token   token (1), position (2), first (1), n (1) -> argmax (1), n logits (2 each) from first
//   6 Logits  first (1), n (1) -> n logits of the last token
//   7 Status  -> damaged frames (2), clocks of the last token (4)
//
// A request arrives twice when its reply was lost. All may be carried out again but Token, which
// therefore names its position: the next one is fed to the core, the one fed last, with the same
// token, is answered from what was computed, and any other is refused as out of step. No repetition
// feeds a token twice, and after a reset, which leaves no context, none but the first is taken.
//
// The nonce is zero after a reset and then whatever the host wrote: in a reply the host sees
// whether the board is still the one it has reset, loaded and fed.

module frames #(
  parameter int unsigned LANES     = 16,
  parameter int unsigned LAYERS    = 1,
  parameter int unsigned WIDTH     = 16,
  parameter int unsigned HEADS     = 2,
  parameter int unsigned BLOCK     = 8,
  parameter int unsigned VOCAB     = 97,
  parameter int unsigned WEIGHT_W  = 8,
  parameter int unsigned DRAIN     = 8,
  parameter int unsigned ADDRESS_W = 32, // of the core's load port, at most 32
  parameter int unsigned LOAD_W    = 64,
  parameter bit          FIXED     = 1'b0 // the model is the bitstream's: no other can be loaded
) (
  input  logic                 clk_i,
  input  logic                 rst_ni,

  // The name of the model that the bitstream holds.
  input  logic                 name_valid_i,
  input  logic [63:0]          name_i,

  // A request, and its payload on its way to the buffer.
  input  logic                 write_i,
  input  logic [7:0]           address_i,
  input  logic [7:0]           data_i,
  input  logic                 request_valid_i,
  output logic                 request_ready_o,
  input  logic [7:0]           kind_i,
  input  logic [7:0]           sequence_i,
  input  logic [7:0]           length_i,
  input  logic                 damaged_i,

  // Its reply.
  output logic                 reply_valid_o,
  input  logic                 reply_ready_i,
  output logic [7:0]           kind_o,
  output logic [7:0]           sequence_o,
  output logic [7:0]           length_o,
  output logic                 payload_valid_o,
  input  logic                 payload_ready_i,
  output logic [7:0]           payload_o,

  // The core.
  output logic                 core_rst_no,
  output logic                 load_valid_o,
  output logic [ADDRESS_W-1:0] load_address_o,
  output logic [LOAD_W-1:0]    load_data_o,
  output logic                 token_valid_o,
  input  logic                 token_ready_i,
  output logic [7:0]           token_o,
  input  logic                 bad_token_i,
  input  logic                 logit_valid_i,
  output logic                 logit_ready_o,
  input  logic [15:0]          logit_i,
  input  logic                 logit_last_i,
  input  logic [7:0]           argmax_i,

  // For light-emitting diodes.
  output logic                 ready_o,  // there is a model
  output logic                 known_o,  // a host has left its nonce
  output logic                 busy_o
);
  localparam logic [7:0] Version = 8'd1;
  localparam int unsigned LoadBytes = (LOAD_W + 7) / 8;
  localparam int unsigned ArgumentsW = (LoadBytes > 8) ? 8 * LoadBytes : 64;
  localparam int unsigned LogitW = (VOCAB > 1) ? $clog2(VOCAB) : 1;
  localparam int unsigned MostLogits = 120; // that a payload of 255 bytes has room for
  localparam int unsigned HeadBytes = 5, HelloBytes = 22, StatusBytes = 6;

  typedef enum logic [7:0] {
    Hello = 8'd1, Reset = 8'd2, Load = 8'd3, Model = 8'd4, Token = 8'd5, Logits = 8'd6,
    Status = 8'd7
  } kind_e;
  typedef enum logic [7:0] {
    Done = 8'd0, OutOfStep = 8'd1, NoModel = 8'd2, BadToken = 8'd3, Malformed = 8'd4,
    ReadOnly = 8'd5
  } status_e;
  typedef enum logic [2:0] {Idle, Read, Judge, Act, Feed, Collect, Reply} state_e;

  state_e  state_q;
  status_e status_q;

  // ---- The payload's buffer, read a byte a clock through a shift register. ----
  //
  // After n bytes the first of them lies 8 * n bits from the top. For Load the register also
  // gathers the words; the frame is known to be right by then.
  (* no_rw_check *) logic [7:0] buffer [256]; // never written while it is read
  logic [7:0]            index_q, read_q;
  logic                  read_valid_q, read_end, payload_taken;
  logic [ArgumentsW-1:0] arguments_q;

  assign read_end      = index_q == length_i;
  assign payload_taken = payload_valid_o & payload_ready_i;

  always_ff @(posedge clk_i) begin
    if (write_i) buffer[address_i] <= data_i;
    read_q       <= buffer[index_q];
    read_valid_q <= (state_q == Read) & ~read_end;
    if (state_q == Idle || state_q == Act) index_q <= '0;
    else if (state_q == Read ? !read_end : payload_taken) index_q <= index_q + 1'b1;
    if (read_valid_q) arguments_q <= {read_q, arguments_q[ArgumentsW-1:8]};
  end

  logic [15:0] nonce, position;
  logic [7:0]  token, first, count;

  assign nonce    = arguments_q[ArgumentsW-1 -: 16];
  assign token    = arguments_q[ArgumentsW-33 -: 8];
  assign position = arguments_q[ArgumentsW-17 -: 16];
  assign first    = arguments_q[ArgumentsW-9 -: 8];
  assign count    = arguments_q[ArgumentsW-1 -: 8];

  // ---- Load: four bytes of address, then words. ----
  localparam int unsigned ByteW = (LoadBytes > 4) ? $clog2(LoadBytes) : 2;
  logic             addressed_q, word_end;
  logic [ByteW-1:0] byte_q;
  logic [31:0]      address_q;

  assign word_end = byte_q == (addressed_q ? ByteW'(LoadBytes - 1) : ByteW'(3));

  always_ff @(posedge clk_i) begin
    load_valid_o <= read_valid_q & addressed_q & word_end & (kind_i == Load) & ~FIXED;
    if (state_q == Idle) begin
      addressed_q <= 1'b0;
      byte_q      <= '0;
    end else if (read_valid_q) begin
      addressed_q <= addressed_q | word_end;
      byte_q      <= word_end ? '0 : byte_q + 1'b1;
    end
    if (read_valid_q && !addressed_q) address_q <= {read_q, address_q[31:8]};
    else if (load_valid_o) address_q <= address_q + 1'b1;
  end

  assign load_address_o = address_q[ADDRESS_W-1:0];
  assign load_data_o    = arguments_q[ArgumentsW - 8*LoadBytes +: LOAD_W];

  // ---- What is asked for, and whether it can be had. ----
  logic [7:0]  wanted_length;
  logic        ranged, whole, range_right, fresh, again;
  logic        whole_q, range_right_q, fresh_q, again_q;
  status_e     verdict, verdict_q;
  logic [63:0] model_q;
  logic [15:0] nonce_q, context_q, damaged_q;
  logic [31:0] clocks_q;
  logic [7:0]  token_q, argmax_q;
  logic        fed_q;

  always_comb begin
    unique case (kind_i)
      Hello, Status: wanted_length = 8'd0;
      Reset, Logits: wanted_length = 8'd2;
      Model:         wanted_length = 8'd8;
      default:       wanted_length = 8'd5; // Token
    endcase
  end

  // Load: an address and whole words. A word that is not whole has not been written.
  assign whole = (kind_i == Load) ? addressed_q & (byte_q == '0) :
                 (kind_i >= Hello) & (kind_i <= Status) & (length_i == wanted_length);
  assign ranged      = (kind_i == Token) | (kind_i == Logits);
  assign range_right = (9'(first) + 9'(count) <= 9'(VOCAB)) & (count <= 8'(MostLogits));
  assign fresh       = position == context_q;
  assign again       = fed_q & (position == context_q - 1'b1) & (token == token_q);

  // Arguments are compared in the last clock of Read, judged in the next, and acted upon in the
  // one after that: the buffer may lie far away, and the comparisons take long.
  always_ff @(posedge clk_i) begin
    {whole_q, range_right_q, fresh_q, again_q} <= {whole, range_right, fresh, again};
    verdict_q                                  <= verdict;
  end

  always_comb begin
    verdict = Done;
    if (!whole_q || (ranged && !range_right_q)) verdict = Malformed;
    else if (FIXED && (kind_i == Load || kind_i == Model)) verdict = ReadOnly;
    else if (kind_i == Token && model_q == '0) verdict = NoModel;
    else if (kind_i == Token && !fresh_q && !again_q) verdict = OutOfStep;
    else if (kind_i == Logits && !fed_q) verdict = OutOfStep;
  end

  // ---- The steps of a request. ----
  assign request_ready_o = (state_q == Reply) & reply_ready_i;
  assign reply_valid_o   = state_q == Reply;
  assign token_valid_o   = state_q == Feed;
  assign token_o         = token;
  assign logit_ready_o   = 1'b1; // logits come of a token alone, long after Collect has begun

  logic reset_q;
  assign core_rst_no = rst_ni & ~reset_q;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      state_q <= Idle;
      reset_q <= 1'b0;
      fed_q   <= 1'b0;
    end else begin
      reset_q <= 1'b0;
      unique case (state_q)
        Idle: if (request_valid_i) state_q <= Read;
        Read: if (read_end && !read_valid_q) state_q <= Judge;
        Judge: state_q <= Act;
        Act: begin
          status_q <= verdict_q;
          state_q  <= (kind_i == Token && verdict_q == Done && fresh_q) ? Feed : Reply;
          if (kind_i == Reset && whole_q) begin
            reset_q <= 1'b1;
            fed_q   <= 1'b0;
          end
        end
        Feed: if (token_ready_i) state_q <= Collect;
        Collect: begin
          if (bad_token_i) begin
            status_q <= BadToken;
            state_q  <= Reply;
          end else if (logit_valid_i && logit_last_i) begin
            fed_q   <= 1'b1;
            state_q <= Reply;
          end
        end
        default: if (reply_ready_i) state_q <= Idle; // Reply
      endcase
    end
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      nonce_q   <= '0;
      context_q <= '0;
      damaged_q <= '0;
    end else begin
      if (damaged_i && damaged_q != '1) damaged_q <= damaged_q + 1'b1;
      if (state_q == Act && kind_i == Reset && whole_q) begin
        nonce_q   <= nonce;
        context_q <= '0;
      end else if (state_q == Collect && logit_valid_i && logit_last_i) begin
        context_q <= context_q + 1'b1;
      end
    end
  end

  always_ff @(posedge clk_i) begin
    if (state_q == Feed) begin
      token_q  <= token;
      clocks_q <= '0;
    end else if (state_q == Collect) begin
      clocks_q <= clocks_q + 1'b1;
      argmax_q <= argmax_i;
    end
  end

  // The model's name is that of the memories' contents, which outlive a reset; so does the name.
  initial model_q = '0;
  always_ff @(posedge clk_i) begin
    if (name_valid_i) model_q <= name_i;
    else if (load_valid_o) model_q <= '0;
    else if (state_q == Act && kind_i == Model && verdict_q == Done) begin
      model_q <= arguments_q[ArgumentsW-1 -: 64];
    end
  end

  // ---- Logits of the last token. ----
  (* no_rw_check *) logic [15:0] logits [2**LogitW];
  logic [15:0]       logit_q;
  logic [LogitW-1:0] write_q, read;
  logic [7:0]        offset;

  assign read = LogitW'(first) + LogitW'(offset >> 1);

  always_ff @(posedge clk_i) begin
    if (state_q == Feed) write_q <= '0;
    else if (logit_ready_o && logit_valid_i) write_q <= write_q + 1'b1;
    if (logit_ready_o && logit_valid_i) logits[write_q] <= logit_i;
    logit_q <= logits[read];
  end

  // ---- The reply: fixed bytes, then logits. ----
  logic [8*HelloBytes-1:0]             hello, body;
  logic [8*(HelloBytes+HeadBytes)-1:0] fixed;
  logic [7:0]                          fixed_length, fixed_length_q, logit_length;
  logic [3:0]                          settled_q;

  assign hello = {model_q, 8'(LoadBytes), 8'(DRAIN), 8'(WEIGHT_W), 16'(VOCAB), 16'(BLOCK),
                  8'(HEADS), 16'(WIDTH), 8'(LAYERS), 16'(LANES), Version};

  always_comb begin
    body         = hello;
    fixed_length = 8'(HeadBytes);
    logit_length = '0;
    if (status_q == Done) begin
      unique case (kind_i)
        Hello: fixed_length = 8'(HeadBytes + HelloBytes);
        Status: begin
          body         = (8*HelloBytes)'({clocks_q, damaged_q});
          fixed_length = 8'(HeadBytes + StatusBytes);
        end
        Token: begin
          body         = (8*HelloBytes)'(argmax_q);
          fixed_length = 8'(HeadBytes + 1);
          logit_length = {count[6:0], 1'b0};
        end
        Logits: logit_length = {count[6:0], 1'b0};
        default: ;
      endcase
    end
  end

  assign fixed  = {body, context_q, nonce_q, status_q};
  assign offset = index_q - fixed_length_q;

  // The line leaves dozens of clocks for a byte, so all of this may take some. The lengths are
  // there before the header has been sent. Then the memory of the logits answers, slowly, while
  // the fixed byte is chosen; its answer is caught, and then one of the two is sent.
  logic [15:0] caught_q;
  logic [7:0]  fixed_q, payload_q;
  logic        odd_q, of_logits_q;
  always_ff @(posedge clk_i) begin
    fixed_length_q <= fixed_length;
    length_o       <= fixed_length + logit_length;

    settled_q   <= {settled_q[2:0], 1'b1} & {4{(state_q == Reply) & ~payload_taken}};
    caught_q    <= logit_q;
    fixed_q     <= fixed[8*index_q[4:0] +: 8];
    odd_q       <= offset[0];
    of_logits_q <= index_q >= fixed_length_q;
    payload_q   <= !of_logits_q ? fixed_q : odd_q ? caught_q[15:8] : caught_q[7:0];
  end

  assign kind_o          = {1'b1, kind_i[6:0]};
  assign sequence_o      = sequence_i;
  assign payload_valid_o = settled_q[3] & (state_q == Reply);
  assign payload_o       = payload_q;

  assign ready_o = model_q != '0;
  assign known_o = nonce_q != '0;
  assign busy_o  = state_q != Idle;
endmodule
