#!/bin/bash
# stack.sh [GROUP...]: puts the container stack, which tests and benchmarks start
# by themselves, into .cache/stack (or $STACK_DIR). Nothing is installed on the
# system and no service is started. May be run any number of times.
#
#   debian   Debian 12's containerd and docker-registry
#   forky    containerd 2 as Debian 14 has it, which Debian 12 runs too
#   docker   dockerd and docker as Debian 14 has them
#   v2       containerd 2, ctr and the shim, built from Go modules
#   stargz   the lazy-loading snapshotter that is compared with
#   crictl   a client of Kubernetes' interface
#   nerdctl  nerdctl, from bench/peers/nerdctl
#
# Without a group: debian, forky, v2, stargz.
set -euo pipefail
cd "$(dirname "$0")/.."

containerd_version=v2.4.2
crictl_version=v1.37.0
dir=${STACK_DIR:-$PWD/.cache/stack}

say() { printf 'stack: %s\n' "$*"; }

debian() {
	local bin=$dir/debian/bin
	[ -x "$bin/docker-registry" ] && return
	say "downloading Debian's containerd and docker-registry"
	local tmp
	tmp=$(mktemp -d)
	chmod 755 "$tmp" # apt downloads as another user
	(cd "$tmp" && { apt-get -q download containerd docker-registry || { apt-get -q update && apt-get -q download containerd docker-registry; }; })
	local deb
	for deb in "$tmp"/*.deb; do dpkg -x "$deb" "$tmp/root"; done
	mkdir -p "$bin"
	mv "$tmp"/root/usr/bin/* "$bin/"
	rm -rf "$tmp"
}

# newer GROUP PACKAGE...: packages of Debian 14, with a state of apt of their own.
# apt verifies them as it does all others.
newer() {
	local group=$1 bin=$dir/$1/bin tmp mirror
	shift
	[ -e "$bin/.complete" ] && return
	say "downloading Debian 14's $*"
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | sed -n 1p) # where this Debian came from
	[ -n "$mirror" ] || { say "want a Debian archive among apt's sources, after apt-get update"; return 1; }
	tmp=$(mktemp -d)
	chmod 755 "$tmp"
	mkdir -p "$tmp/lists/partial" "$tmp/debs"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror forky main" >"$tmp/sources.list"
	local options=(-q -o "Dir::State=$tmp" -o "Dir::State::lists=$tmp/lists" -o Dir::State::status=/dev/null -o "Dir::Cache=$tmp" -o "Dir::Etc::sourcelist=$tmp/sources.list"
		-o Dir::Etc::sourceparts=/dev/null -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false)
	apt-get "${options[@]}" update
	(cd "$tmp/debs" && apt-get "${options[@]}" -o APT::Sandbox::User=root download "$@")
	local deb
	for deb in "$tmp"/debs/*.deb; do dpkg -x "$deb" "$tmp/root"; done
	rm -rf "$bin"
	mkdir -p "$bin"
	find "$tmp/root/usr/bin" "$tmp/root/usr/sbin" -type f -exec mv -t "$bin" {} + 2>/dev/null || [ -n "$(ls "$bin")" ]
	rm -rf "$tmp"
	touch "$bin/.complete"
}

forky() { newer forky containerd; }

docker() { newer docker docker.io docker-cli; }

# install GROUP VERSION PACKAGE...: go install, unless that version is there.
install() {
	local bin=$dir/$1/bin version=$2
	shift 2
	[ "$(cat "$bin/.version" 2>/dev/null)" = "$version" ] && return
	say "building $* $version"
	mkdir -p "$bin"
	GOBIN=$bin CGO_ENABLED=0 GOFLAGS=-buildvcs=false go install -trimpath -ldflags '-s -w' "${@/%/@$version}"
	echo "$version" >"$bin/.version"
}

v2() {
	local m=github.com/containerd/containerd/v2/cmd
	install v2 "$containerd_version" $m/containerd $m/ctr $m/containerd-shim-runc-v2
}

crictl() { install crictl "$crictl_version" sigs.k8s.io/cri-tools/cmd/crictl; }

# nerdctl cannot be built by its name and version: proxies lack the list of its
# versions, and the module of its test helpers.
nerdctl() {
	local bin=$dir/nerdctl/bin src=bench/peers/nerdctl sum tmp
	sum=$(find $src -type f | sort | xargs cat | sha256sum)
	[ "$(cat "$bin/.version" 2>/dev/null)" = "$sum" ] && return
	say "building nerdctl"
	mkdir -p "$bin"
	tmp=$(mktemp -d)
	cp -r $src/. "$tmp"
	(cd "$tmp" && CGO_ENABLED=0 GOFLAGS='-mod=mod -buildvcs=false' go build -trimpath -ldflags '-s -w' -o "$bin/nerdctl" github.com/containerd/nerdctl/v2/cmd/nerdctl)
	rm -rf "$tmp"
	echo "$sum" >"$bin/.version"
}

# The snapshotter's own programs are in a module that not every module proxy has; its library is in one that all have.
stargz() {
	local bin=$dir/peers/bin src=bench/peers/stargz sum
	sum=$(cat $src/* | sha256sum)
	[ "$(cat "$bin/.stargz" 2>/dev/null)" = "$sum" ] && return
	say "building stargz-grpc"
	mkdir -p "$bin"
	(cd $src && CGO_ENABLED=0 GOFLAGS=-buildvcs=false go build -trimpath -ldflags '-s -w' -o "$bin/stargz-grpc" .)
	echo "$sum" >"$bin/.stargz"
}

groups=("$@")
[ $# -gt 0 ] || groups=(debian forky v2 stargz)
for group in "${groups[@]}"; do
	case $group in
	debian | forky | docker | v2 | stargz | crictl | nerdctl) "$group" ;;
	*)
		say "want debian, forky, docker, v2, stargz, crictl or nerdctl, got $group" >&2
		exit 2
		;;
	esac
done
say "ready in $dir: $(cd "$dir" && echo */bin | sed 's,/bin,,g')"
