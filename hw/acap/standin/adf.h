// A stand-in for AMD's adf.h, the graphs of AI Engines, to run generated designs on a CPU.
//
// What it is: the names, arguments and order of calls that the generated sources use, as AMD documents them (UG1079), with
// what they compute. Each kernel is a thread that waits for its data, so a graph runs as the dataflow it describes.
// Where a graph cannot be what it should (a port left open, a run before init, a buffer used before it is acquired, two
// kernels on a tile, data that never come) the program ends with one sentence and exit code 3.
//
// What it is not: a simulator. It knows no time, no memory banks, no routing and no limits of buffers, so it finds neither
// a deadlock for want of buffers nor an engine that is too full. It holds one design a process.
#ifndef STANDIN_ADF_H
#define STANDIN_ADF_H

#include "adf/buffers.hpp"
#include "adf/graph.hpp"
#include "adf/types.hpp"

#endif
