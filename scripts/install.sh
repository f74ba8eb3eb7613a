#!/bin/bash
# install.sh PREFIX [DESTDIR]: installs bin/, dist/man and packaging/ below PREFIX,
# for now in DESTDIR (of a package that is being made).
set -euo pipefail
cd "$(dirname "$0")/.."
prefix=${1:?usage: install.sh PREFIX [DESTDIR]} to=${2:-}$1
for program in slackerd slackerctl slacker-client slacker-snapshotter; do
	install -D -m 755 "bin/$program" "$to/bin/$program"
	install -d "$to/share/bash-completion/completions"
	"bin/$program" completion bash >"$to/share/bash-completion/completions/$program"
done
for page in dist/man/*.[18]; do
	install -D -m 644 "$page" "$to/share/man/man${page##*.}/$(basename "$page")"
done
for unit in packaging/*.service packaging/*.socket; do
	install -d "$to/lib/systemd/system"
	sed "s#/usr/bin/#$prefix/bin/#" "$unit" >"$to/lib/systemd/system/$(basename "$unit")"
done
printf 'install: done; systemctl daemon-reload && systemctl enable --now slackerd starts the server\n'
