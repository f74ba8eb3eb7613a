// Package apiserver is the server side of the admin API (package api) over a
// [Store].
//
// Nouns:
//
//   - server: [NewServer] makes the service, [NewHandler] its HTTP handler.
//   - store: what the server administers; volume.Store is one.
//
// Invariants:
//
//  1. Every name, size and id of a request is checked before the store sees it.
//  2. A request of more than MaxRequestBytes is refused without being held in
//     memory; a request in JSON with an unknown field is refused, so that a
//     misspelt dryRun never deletes.
//  3. A panic in a request ends that request with an internal error, and
//     nothing else.
//  4. With a policy ([Options].Access) every request is held to it before the
//     server sees it; one that permit.go does not know needs admin on all.
package apiserver
