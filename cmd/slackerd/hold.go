//go:build !rig

package main

import "github.com/slackerd/slacker/nbdserver"

// holdWrites is where the test rig's build delays a write; see hold_rig.go.
func holdWrites(d nbdserver.Device) nbdserver.Device { return d }
