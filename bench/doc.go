// Package bench holds the benchmarks: workloads as code, run by hand or by make
// targets, never as timed tests.
//
// store_test.go measures the store without a network: the cost of snapshot,
// clone and delete against the size of the map and the depth of the chain, and
// reads and writes of 4 KiB. touch_test.go times first touches of pages at depth
// 1 and 1,000. sweep_test.go times snapshot, clone and delete over sizes, extents,
// depths and numbers of volumes. depth_test.go reads volumes full of data at depth
// 1 and 1,000.
package bench
