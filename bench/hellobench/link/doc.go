// Package link makes two network namespaces, a server's and a worker's, and the
// link between them: as fast as the machine, or of a given rate and delay.
//
// An unlimited link is a veth pair. A limited one is a pair of TUN devices, and a
// goroutine for each direction that takes packets from one and gives them to the
// other when a link of that rate and delay would have: a packet leaves when the
// ones before it have been sent, arrives the delay later, and is dropped when
// the queue is full. So connections are made, windows grow and losses are
// repeated by the kernel's TCP as on a real link, and every protocol is held up
// alike. (The netem queue discipline does the same where the kernel has it, which
// is not everywhere.) Packets are those of segmentation offload, up to 64 KiB: at
// high rates they come in bursts, as they do from a network card.
package link
