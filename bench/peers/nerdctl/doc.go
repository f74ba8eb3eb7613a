// Package nerdctl holds what nerdctl is built from: its module, and a stand-in
// for the module of its own test helpers, which proxies may lack and which the
// program imports for one interface.
package nerdctl

import _ "github.com/containerd/nerdctl/v2/pkg/version" // so that go.mod keeps it
