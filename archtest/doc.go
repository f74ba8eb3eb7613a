// Package archtest holds the shape of the repository: who may import whom, that
// every package says what it is for, that no file grows without bound, and that
// the README's commands exist. It has tests only; each failure says why the
// rule is there.
package archtest
