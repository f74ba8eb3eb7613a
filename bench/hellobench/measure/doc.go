// Package measure runs HelloBench and records what it measured.
//
// Nouns:
//
//   - record: one measurement of one image, one driver, one link, one round.
//   - log: a file of records, a JSON object a line. What is in it is not
//     measured again, so that a run that was stopped goes on.
//   - cycle: a worker that never saw an image pulls it and runs it to hello
//     (deployment), runs it again, and pushes it (with that, development).
//
// Drivers take turns image by image, in another order each round, so that what the
// machine does meanwhile is not held against one of them.
package measure
