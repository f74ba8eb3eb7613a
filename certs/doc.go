// Package certs makes the certificates of a Slacker installation and loads
// them for TLS connections.
//
// Nouns:
//
//   - authority: ca.crt and ca.key in a directory. Servers and clients trust
//     ca.crt and nothing else; ca.key is needed to issue and stays off servers.
//   - server certificate: NAME.crt and NAME.key, for the host names and
//     addresses of a slackerd.
//   - client certificate: the same for a worker, a person or a program; its
//     common name, and a URI if it has one, are the identity that access rules
//     speak of.
//   - [Files]: the three files that one side of a connection is given.
//   - [Source]: Files that are read anew when they change.
//
// Invariants:
//
//	K1  TLS is 1.3, with certificates on both sides, and sessions are not
//	    resumed: every connection is verified against the files of today.
//	K2  A private key is written with mode 0600, by a rename, and never
//	    overwrites another; one that others than its owner's group may read is
//	    refused.
//	K3  Files that cannot be read or do not fit together leave what was loaded
//	    before in force.
//	K4  Neither errors nor logs hold anything of a private key.
package certs
