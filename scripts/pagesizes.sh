#!/bin/sh
# Runs the tests of the store with pages of the extent map that are smaller than
# those of the disk format (larger ones it cannot express). What the store does must not depend on it; only
# the fixtures of the format (package check) do.
set -eu
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for blocks in 64 128; do
	sed "s/^const PageBlocks = .*/const PageBlocks = $blocks/" cow/page.go >"$dir/page.go"
	grep -q "^const PageBlocks = $blocks\$" "$dir/page.go"
	printf '{"Replace": {"%s": "%s"}}' "$PWD/cow/page.go" "$dir/page.go" >"$dir/overlay.json"
	echo "pages of $blocks blocks"
	go test -count=1 -overlay "$dir/overlay.json" ./cow ./volume ./gc
done
