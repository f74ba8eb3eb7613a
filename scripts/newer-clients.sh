#!/bin/bash
# newer-clients.sh: unpacks libnbd and QEMU of a newer Debian into .cache (46 MB,
# nothing is installed) and runs the tests of the NBD server with them. Those of
# Debian 12 do not know extended headers.
set -euo pipefail
cd "$(dirname "$0")/.."
suite=${1:-trixie}
root=$PWD/.cache/clients-$suite
if [ ! -e "$root/.complete" ]; then
	rm -rf "$root"
	mkdir -p "${root%/*}"
	mmdebstrap --quiet --variant=extract --include=libnbd-bin,qemu-utils "$suite" "$root"
	touch "$root/.complete"
fi
SLACKER_NEWER_CLIENTS=$root exec go test -count=1 -v -run '^TestNewerClients$' ./nbdserver
