#!/bin/bash
# install.sh PREFIX: installs bin/, dist/man and packaging/ below PREFIX.
set -euo pipefail
cd "$(dirname "$0")/.."
prefix=${1:?usage: install.sh PREFIX}
for program in slackerd slackerctl slacker-client slacker-snapshotter; do
	install -D -m 755 "bin/$program" "$prefix/bin/$program"
	install -d "$prefix/share/bash-completion/completions"
	"bin/$program" completion bash >"$prefix/share/bash-completion/completions/$program"
done
for page in dist/man/*.[18]; do
	install -D -m 644 "$page" "$prefix/share/man/man${page##*.}/$(basename "$page")"
done
for unit in packaging/*.service packaging/*.socket; do
	install -d "$prefix/lib/systemd/system"
	sed "s#/usr/bin/#$prefix/bin/#" "$unit" >"$prefix/lib/systemd/system/$(basename "$unit")"
done
printf 'install: done; systemctl daemon-reload && systemctl enable --now slackerd starts the server\n'
