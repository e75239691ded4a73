// A sum of signed terms, two and two, with a register after each addition.
//
// One sum a clock, LEVELS clocks late. advance_i says, a bit a level, in which clocks its registers
// move: levels that carry nothing of use stand still. Each level is one bit wider than the one
// before, so nothing overflows and no carry chain is longer than it has to be. INPUTS need not be a
// power of two: the missing terms are zeros, and what adds them folds away.
//
// Terms and sums stand 32 bits apart, whatever their width: a simulator then finds each in a word
// of its own, and wires cost a synthesiser nothing.

module adder_tree #(
  parameter int unsigned INPUTS = 8,
  parameter int unsigned TERM_W = 17,
  // Derived; not to be set.
  parameter int unsigned LEVELS    = $clog2(INPUTS),
  parameter int unsigned ADVANCE_W = (LEVELS > 0) ? LEVELS : 1
) (
  input  logic                  clk_i,
  input  logic [ADVANCE_W-1:0]  advance_i,
  input  logic [32*INPUTS-1:0]  terms_i,
  output logic [31:0]           sum_o
);
  // Node n is the sum of nodes 2 n + 1 and 2 n + 2; the terms are the last 2^LEVELS nodes.
  localparam int unsigned Leaves = 1 << LEVELS;
  logic [32*(2*Leaves-1)-1:0] node;

  for (genvar n = 0; n < Leaves; n++) begin : g_leaf
    if (n < INPUTS) begin : g_term
      assign node[32*(Leaves-1+n) +: 32] = terms_i[32*n +: 32];
    end else begin : g_nothing
      assign node[32*(Leaves-1+n) +: 32] = '0;
    end
  end

  for (genvar level = 0; level < LEVELS; level++) begin : g_level
    // Level 0 adds the terms. `left` and `right` are cut to the width that they need.
    localparam int unsigned Count = Leaves >> (level + 1);
    localparam int unsigned SumW  = TERM_W + level + 1;
    for (genvar n = 0; n < Count; n++) begin : g_sum
      logic signed [SumW-2:0] left, right;
      logic signed [SumW-1:0] sum_q;

      assign left  = node[32*(2*(Count-1+n)+1) +: SumW-1];
      assign right = node[32*(2*(Count-1+n)+2) +: SumW-1];
      always_ff @(posedge clk_i) begin
        if (advance_i[level]) sum_q <= SumW'(left) + SumW'(right);
      end
      assign node[32*(Count-1+n) +: 32] = 32'(sum_q);
    end
  end

  // A tree of one term has no clock; copies of the sign are cut off.
  logic unused;
  assign unused = ^{clk_i, advance_i, node};

  assign sum_o = node[31:0];
endmodule
