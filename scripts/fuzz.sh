#!/bin/bash
# fuzz.sh TIME: runs every fuzzer of the repository for that long (such as 10s).
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:?usage: fuzz.sh TIME}
grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r package; do
	grep -h --include='*_test.go' -ro '^func Fuzz[A-Za-z0-9_]*' "$package" | sed 's/^func //' | sort -u | while read -r fuzzer; do
		printf 'fuzz: %s %s\n' "$package" "$fuzzer"
		go test -run '^$' -fuzz "^$fuzzer\$" -fuzztime "$time" "$package" </dev/null
	done
done
