// Package api is the admin API of slackerd: its definition (slacker/v1), its
// client side, and the tables that carry the kinds of errors over the wire and
// into exit statuses. The server side is package apiserver, so that a program
// that only asks is small and starts at once.
//
// Nouns:
//
//   - address: where a server listens, written http://HOST:PORT,
//     tcp://HOST:PORT or unix:///PATH; see [NewClient].
//   - kind: the block.Kind of an error.
//
// Wire format: Connect, gRPC and gRPC-Web, as connectrpc.com defines them, over
// HTTP/1.1 or HTTP/2, with messages in protobuf or JSON. JSON follows the proto3
// mapping: field names in lowerCamelCase, 64-bit numbers as strings, times in
// RFC 3339. Answers in JSON name every field, empty ones too. An error has a
// code and a text, and its kind in the header (of a stream: the trailer)
// "Slacker-Kind".
//
// Invariants:
//
//  1. A kind survives the wire: FromConnect of what ToConnect made, sent over
//     any of the protocols, is of the same kind and says the same text.
//
// History: v1 is the only version. Fields are added, never renamed, renumbered
// or given another meaning.
package api

//go:generate go run ./generate
