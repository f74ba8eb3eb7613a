// Package tig stands in for the one of nerdctl's test helpers that its program
// imports: the interface of a test, as far as it has to compile.
package tig

// T is a test.
type T interface {
	Helper()
	FailNow()
	Fail()
	Log(args ...any)
	Name() string
	TempDir() string
}
