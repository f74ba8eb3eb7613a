#!/bin/bash
# lint.sh [PACKAGES]: gofmt, go vet, staticcheck and errcheck; go.mod has the
# versions of the latter two.
set -uo pipefail
cd "$(dirname "$0")/.."
packages=("$@")
[ $# -gt 0 ] || packages=(./...)
status=0

step() {
	printf 'lint: %s\n' "$1"
	shift
	"$@" || status=1
}
formatted() {
	local files
	files=$(git ls-files -z --cached --others --exclude-standard '*.go' | xargs -0 gofmt -l)
	[ -z "$files" ] || {
		printf 'not formatted: %s\n' $files
		return 1
	}
}
step gofmt formatted
step "go vet" go vet "${packages[@]}"
step "go vet -tags rig" go vet -tags rig ./cmd/slackerd
step staticcheck go tool staticcheck "${packages[@]}"
step errcheck go tool errcheck -ignoregenerated "${packages[@]}"
[ $status = 0 ] && echo "lint: no findings"
exit $status
