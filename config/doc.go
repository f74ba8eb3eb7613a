// Package config is the configuration of slackerd: which settings there are,
// their defaults with units, where a value came from, and what makes it valid.
// Only the commands import it: other packages are given plain options.
//
// A setting has a key such as store.segment_size. Its value comes from, in
// this order: a flag of the command line, the environment (SLACKER_ and the
// key in capitals, '.' as '_'), the file (YAML), its default. One table,
// settings.go, defines all of them; the default file, the flags and the checks
// are made from it.
//
// Invariants:
//
//	F1  [Load] reports every fault of a configuration at once, each naming the
//	    key, where the value came from, what was wanted and what was there.
//	F2  An unknown key, in the file or as a SLACKER_ variable, is a fault.
//	F3  The file that [Template] writes holds every setting and loads to the
//	    defaults.
//	F4  A TCP address that is not of the loopback interface is a fault unless
//	    TLS is required there or it was allowed expressly.
package config
