#!/bin/bash
# fuzz.sh TIME [PACKAGE ...]: runs every fuzzer of the repository, or of the
# packages, for that long (such as 10s) or for that many inputs (such as 2000x).
#
# Go before 1.27 may end a run that is bounded in time with "context deadline
# exceeded" though nothing was found (golang/go#75804: its coordinator's deadline
# races with its workers). Such an end, without a failing input, is told and
# counts as good. A run that is bounded in inputs has no deadline.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:?usage: fuzz.sh TIME [PACKAGE ...]}
shift
log=$(mktemp)
trap 'rm -f "$log"' EXIT

run() { # PACKAGE FUZZER
	printf 'fuzz: %s %s\n' "$1" "$2"
	if go test -run '^$' -fuzz "^$2\$" -fuzztime "$time" "$1" </dev/null 2>&1 | tee "$log"; then return 0; fi
	case $time in *x) return 1 ;; esac
	if grep -q '^    context deadline exceeded$' "$log" && ! grep -Eq 'Failing input|panic:|_test\.go:' "$log"; then
		echo "fuzz: nothing was found: that was the race of golang/go#75804 at the end of the time"
		return 0
	fi
	return 1
}

packages=("$@")
if [ $# -eq 0 ]; then
	mapfile -t packages < <(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u)
fi
for package in "${packages[@]}"; do
	for fuzzer in $(grep -h --include='*_test.go' -so '^func Fuzz[A-Za-z0-9_]*' "$package"/*_test.go | sed 's/^func //' | sort -u); do
		run "$package" "$fuzzer"
	done
done
