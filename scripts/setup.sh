#!/bin/bash
# setup.sh: installs the Debian packages that building, testing and the demo
# need and that are not there yet, and downloads the Go modules and the container
# stack. May be run any number of times.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
	ca-certificates curl gcc git libc6-dev make  # the build; the race detector wants gcc
	e2fsprogs fuse3 iproute2 kmod mount util-linux # worker; nsenter for the stack
	binutils mmdebstrap qemu-utils runc skopeo umoci bzip2 xz-utils # images
	fio libnbd-bin nbd-client nbdkit python3-libnbd redis-tools # NBD clients and servers for the tests
	busybox-static cpio qemu-system-x86 sqlite3 # the kernel rig
)

say() { printf 'setup: %s\n' "$*"; }
fail() {
	printf 'setup: %s\n' "$*" >&2
	exit 1
}

command -v dpkg-query >/dev/null || fail "this is no Debian: install by hand: ${packages[*]}"
missing=()
for package in "${packages[@]}"; do
	state=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
	[ "$state" = "install ok installed" ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
	[ "$(id -u)" = 0 ] || fail "want root to install: ${missing[*]}"
	say "installing ${missing[*]}"
	apt-get -q update
	DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "${missing[@]}"
else
	say "all ${#packages[@]} packages are installed"
fi

command -v go >/dev/null || fail "Go is not installed: want $(sed -n 's/^go //p' go.mod) or newer, see https://go.dev/dl"
say "$(go version | cut -d' ' -f3), downloading modules"
go mod download
./scripts/stack.sh debian # containerd and a registry for the tests; nothing of it runs as a service
# Debian 14's containerd 2 changes until it is released: the tests say so when it is not there.
./scripts/stack.sh forky || say "containerd 2 is not to be had: tests run with containerd 1.6 only"
say "done"
