#!/bin/bash
# clients.sh [CLIENT...]: runs real images by ctr, nerdctl, crictl (a client of
# Kubernetes' interface) and docker on slacker-snapshotter, and prints how long each
# took. Without an argument: all four.
# Registry, slackerd, snapshotter and containerd are started here, in a network
# namespace of their own, with a /run, /tmp and /var/tmp of their own, and all is taken
# away again, also after a failure. Images come from .cache/hellobench (make
# hellobench-images), programs from bin and .cache/stack; what is missing is built
# there, or fetched (docker: that of Debian 14, since Debian 12's is of before Docker
# could use containerd's snapshotters).
#
#   IMAGES    which images; default: busybox redis postgres python gcc
#
# Runs are recorded in bench/results/clients.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

images=${IMAGES:-busybox redis postgres python gcc}
clients=("$@")
[ $# -gt 0 ] || clients=(ctr nerdctl crictl docker)
port=5000

fail() {
	printf 'clients: %s\n' "$*" >&2
	exit 1
}
say() { printf 'clients: %s\n' "$*" >&2; }
now() { date +%s%N; }
seconds() { printf '%d.%02d' $((($2 - $1) / 1000000000)) $((($2 - $1) / 10000000 % 100)); }

if [ -z "${CLIENTS_INSIDE:-}" ]; then
	[ "$(id -u)" = 0 ] || fail "want root, to attach and mount block devices"
	./scripts/stack.sh debian v2 >&2
	for client in "${clients[@]}"; do
		case $client in
		ctr) ;;
		nerdctl | crictl | docker) ./scripts/stack.sh "$client" >&2 ;;
		*) fail "want ctr, nerdctl, crictl or docker, got $client" ;;
		esac
	done
	[ -x bin/slacker-snapshotter ] || make --no-print-directory build >&2
	[ -x bin/hellobench ] || go build -o bin/hellobench ./bench/hellobench
	# shellcheck disable=SC2086
	bin/hellobench build $images hello-world
	work=$(mktemp -d /var/tmp/clients.XXXXXX)
	trap '[ -n "${KEEP:-}" ] || rm -rf --one-file-system "$work"' EXIT
	CLIENTS_INSIDE=$work unshare --net --mount -- "$0" "${clients[@]}"
	exit
fi
ip link set lo up

# Daemons find a /run, /tmp and /var/tmp of their own, and leave those of the machine
# alone. This tree, which may be in one of them, is below /run too.
work=$CLIENTS_INSIDE
mkdir -p "$work"/{run/tree,run/work,tmp,var-tmp}
mount --bind "$work/run" /run
mount --rbind . /run/tree
mount --bind "$work" /run/work
cd /run/tree
work=/run/work stack=${STACK_DIR:-$PWD/.cache/stack}
mount --bind $work/tmp /tmp
mount --bind $work/var-tmp /var/tmp
unset TMPDIR
pids=()
cleanup() {
	status=$?
	trap - EXIT
	set +e
	[ $status = 0 ] || for log in dockerd snapshotter containerd slackerd; do tail -n 5 "$work/$log.log" 2>/dev/null | sed "s/^/clients: $log: /" >&2; done
	for id in $(ctr_ task ls -q 2>/dev/null); do ctr_ task rm -f "$id" >/dev/null 2>&1; done
	[ ! -S "$work/docker.sock" ] || docker_ ps -aq 2>/dev/null | while read -r id; do docker_ rm -f "$id" >/dev/null 2>&1; done
	for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
		kill "${pids[i]}" 2>/dev/null
		wait "${pids[i]}" 2>/dev/null
	done
	bin/slacker-client --server "$api" --state-dir "$work/att" list --json 2>/dev/null | sed -n 's/.*"target": "\(.*\)".*/\1/p' |
		while read -r target; do bin/slacker-client --server "$api" --state-dir "$work/att" detach --force "$target"; done
	[ -z "${slackerd:-}" ] || { kill "$slackerd" && wait "$slackerd"; } 2>/dev/null
	awk -v dir="$work/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | tac | xargs -r -n1 umount -l
	exit $status
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# begin NAME READY COMMAND...: starts a daemon and waits until READY succeeds.
begin() {
	local name=$1 ready=$2
	shift 2
	"$@" >"$work/$name.log" 2>&1 &
	pids+=($!)
	for _ in $(seq 300); do
		if eval "$ready" >/dev/null 2>&1; then return; fi
		kill -0 "${pids[-1]}" 2>/dev/null || fail "$name ended: $(tail -n 3 "$work/$name.log")"
		sleep 0.1
	done
	fail "$name does not answer: $(tail -n 3 "$work/$name.log")"
}
ctr_() { CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1 "$stack/v2/bin/ctr" --address "$work/c.sock" -n k8s.io "$@"; }

api=http://127.0.0.1:10808
registry=127.0.0.1:$port
cat >"$work/registry.yml" <<END
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $PWD/.cache/hellobench/registry}}
http: {addr: "$registry", secret: of-no-use}
END
cat >"$work/containerd.toml" <<END
version = 3
root = "$work/root"
state = "$work/state"
[grpc]
address = "$work/c.sock"
[ttrpc]
address = "$work/c.sock.ttrpc"
[proxy_plugins.slacker]
type = "snapshot"
address = "$work/sn.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "$work/opt"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "slacker"
use_local_image_pull = true
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "$registry/pause:latest"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
conf_dir = "$work/cni"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux/amd64"
snapshotter = "slacker"
END
begin registry "curl -sf http://$registry/v2/" "$stack/debian/bin/docker-registry" serve "$work/registry.yml"
begin slackerd "curl -sf $api/readyz" bin/slackerd serve --data-dir "$work/data" --nbd-listen tcp://127.0.0.1:10809 --api-listen tcp://127.0.0.1:10808
slackerd=${pids[-1]}
unset 'pids[-1]' # it ends after what is attached
begin snapshotter "test -S $work/sn.sock" bin/slacker-snapshotter --server "$api" --listen "$work/sn.sock" --root "$work/sn" \
	--state-dir "$work/att" --size 8GiB
begin containerd "ctr_ version" env PATH="$stack/v2/bin:$PATH" "$stack/v2/bin/containerd" --config "$work/containerd.toml"

# shellcheck disable=SC2086
bin/hellobench build -push "$registry" $images >&2
# The container that holds a pod's namespaces: the program sleeps.
skopeo --insecure-policy copy -q --src-tls-verify=false "docker://$registry/busybox" "oci:$work/pause:latest" 2>/dev/null || fail "busybox is needed for pods: IMAGES lacks it"
umoci config --image "$work/pause:latest" --config.cmd sleep --config.cmd 1000000
skopeo --insecure-policy copy -q --dest-tls-verify=false "oci:$work/pause:latest" "docker://$registry/pause:latest"

# hello IMAGE: what to run, an argument a line, and what it says then.
hello() {
	case $1 in
	busybox) args=(echo hello) want=hello ;;
	redis) args=(redis-server --port 0 --unixsocket /tmp/sock) want='eady to accept connections' ;;
	postgres) args=(postgres -c listen_addresses=) want='database system is ready to accept connections' ;;
	python) args=(python -c 'print("hello")') want=hello ;;
	gcc) args=(sh -c 'echo "int puts(const char *); int main(void) { puts(\"hello\"); return 0; }" >/tmp/a.c && gcc -o /tmp/a /tmp/a.c && /tmp/a') want=hello ;;
	*) fail "no task for $1" ;;
	esac
}
# await TEXT COMMAND...: until the output of COMMAND has TEXT.
await() {
	local text=$1
	shift
	for _ in $(seq 1200); do
		if "$@" 2>&1 | grep "$text" >/dev/null; then return; fi # -q would end the writer
		sleep 0.05
	done
	echo "it does not say $text: $("$@" 2>&1 | tail -n 3)"
	return 1
}
nerdctl_() {
	PATH="$stack/v2/bin:$PATH" "$stack/nerdctl/bin/nerdctl" --address "$work/c.sock" --namespace k8s.io --snapshotter slacker --insecure-registry \
		--data-root "$work/nerdctl" --cgroup-manager cgroupfs --cni-netconfpath "$work/cni" "$@"
}
crictl_() { "$stack/crictl/bin/crictl" --runtime-endpoint "unix://$work/c.sock" --image-endpoint "unix://$work/c.sock" "$@"; }
snapshotter_of() {
	case $client in
	docker) docker_ inspect -f '{{.Driver}}' "$id" ;;
	nerdctl) ctr_ containers info "$(nerdctl_ inspect -f '{{.Id}}' "$id" 2>/dev/null)" ;;
	crictl) ctr_ containers info "$container" ;;
	ctr) ctr_ containers info "$id" ;;
	esac | sed -n 's/^ *"Snapshotter": "\(.*\)".*/\1/; /^[a-z]*$/p' # of JSON, or the name alone
}
json() { python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@"; }

docker_() { DOCKER_CONFIG=$work/docker "$stack/docker/bin/docker" --host "unix://$work/docker.sock" "$@"; }
# begin_docker starts dockerd with the image store of this containerd.
begin_docker() {
	printf '{"features": {"containerd-snapshotter": true}, "storage-driver": "slacker"}' >"$work/dockerd.json"
	begin dockerd "docker_ version" env PATH="$stack/v2/bin:$stack/docker/bin:$PATH" "$stack/docker/bin/dockerd" --config-file "$work/dockerd.json" \
		--containerd "$work/c.sock" --host "unix://$work/docker.sock" --data-root "$work/docker-root" --exec-root "$work/docker-exec" \
		--pidfile "$work/docker.pid" --bridge none --iptables=false --ip6tables=false --exec-opt native.cgroupdriver=cgroupfs
	docker_ info -f '{{json .DriverStatus}}' | grep -q io.containerd.snapshotter || fail "dockerd does not use containerd's image store: $(docker_ info)"
}

# CLIENT_pull, CLIENT_run and CLIENT_rm work on $ref and $id.
ctr_pull() { ctr_ image pull --plain-http --snapshotter slacker "$ref"; }
ctr_run() {
	case $image in # ctr runs arguments without the entry point
	redis | postgres) args=(docker-entrypoint.sh "${args[@]}") ;;
	esac
	ctr_ run -d --snapshotter slacker --log-uri "file://$work/$id.out" "$ref" "$id" "${args[@]}"
	await "$want" cat "$work/$id.out"
}
ctr_rm() {
	ctr_ task kill -s KILL "$id" 2>/dev/null || true
	ctr_ task rm -f "$id" || true
	ctr_ container rm "$id"
	ctr_ image rm --sync "$ref"
}
nerdctl_pull() { nerdctl_ pull -q "$ref"; }
nerdctl_run() {
	nerdctl_ run -d --net none --name "$id" "$ref" "${args[@]}"
	await "$want" nerdctl_ logs "$id"
}
nerdctl_rm() { nerdctl_ rm -f "$id" && nerdctl_ rmi -f "$ref"; }
docker_pull() { docker_ pull -q "$ref"; }
docker_run() {
	docker_ run -d --network none --name "$id" "$ref" "${args[@]}"
	await "$want" docker_ logs "$id"
}
docker_rm() { docker_ rm -f "$id" && docker_ rmi -f "$ref"; }
crictl_pull() { crictl_ pull "$ref"; }
crictl_run() {
	printf '{"metadata": {"name": "%s", "namespace": "default", "uid": "%s"}, "log_directory": "%s", "linux": {"security_context": {"namespace_options": {"network": 2}}}}' \
		"$id" "$id" "$work" >"$work/pod.json"
	printf '{"metadata": {"name": "%s"}, "image": {"image": "%s"}, "log_path": "%s.out", "args": %s, "linux": {}}' \
		"$id" "$ref" "$id" "$(json "${args[@]}")" >"$work/container.json"
	pod=$(crictl_ runp "$work/pod.json") || return
	container=$(crictl_ create "$pod" "$work/container.json" "$work/pod.json") || return
	crictl_ start "$container" || return
	await "$want" cat "$work/$id.out"
}
crictl_rm() { crictl_ stopp "$pod" && crictl_ rmp "$pod" && crictl_ rmi "$ref"; }

printf '%-8s %-10s %8s %8s   %s\n' client image 'pull, s' 'run, s' said
for client in "${clients[@]}"; do
	[ "$client" != docker ] || begin_docker
	for image in $images; do
		hello "$image"
		ref=$registry/$image:latest id=$client-$image-$$
		t0=$(now)
		"${client}_pull" >"$work/out" 2>&1 || fail "$client: pull $image: $(tail -n 3 "$work/out")"
		t1=$(now)
		"${client}_run" >"$work/out" 2>&1 || fail "$client: run $image: $(tail -n 3 "$work/out")"
		t2=$(now)
		on=$(snapshotter_of)
		[ "$on" = slacker ] || fail "$client: $image runs on the snapshotter '$on', want slacker"
		"${client}_rm" >"$work/out" 2>&1 || fail "$client: remove $image: $(tail -n 3 "$work/out")"
		printf '%-8s %-10s %8s %8s   %s\n' "$client" "$image" "$(seconds "$t0" "$t1")" "$(seconds "$t1" "$t2")" "$want"
	done
done
