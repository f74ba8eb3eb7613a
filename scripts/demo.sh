#!/bin/bash
# demo.sh: the main job on real input. Makes a Debian root file system with
# redis in it, imports it as an image, clones it, attaches the clone as a block
# device with ext4, runs redis from it, and prints what it took. Everything it
# starts and makes is gone afterwards, also after a failure, but for the root
# file system in .cache/, which is used again.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
	printf 'demo: %s\n' "$*" >&2
	exit 1
}
say() { printf 'demo: %s\n' "$*"; }
now() { date +%s%N; }
ms() { printf '%d.%01d ms' $((($2 - $1) / 1000000)) $((($2 - $1) / 100000 % 10)); }
human() { numfmt --to=iec-i --suffix=B --format=%.1f "$1"; }

[ "$(id -u)" = 0 ] || fail "want root, to attach and mount a block device"
for tool in mmdebstrap curl mkfs.ext4 go; do
	command -v "$tool" >/dev/null || fail "$tool is not installed: run make setup"
done
say "building"
make --no-print-directory build >/dev/null
export PATH=$PWD/bin:$PATH

suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")
cache=$PWD/.cache/demo
rootfs=$cache/debian-$suite-redis.tar
work=$(mktemp -d /tmp/slacker-demo.XXXXXX)
mount=$work/mnt
server='' redis=''

# The EXIT trap runs however the script ends.
cleanup() {
	status=$?
	trap - EXIT
	set +e
	[ -z "$redis" ] || { kill "$redis" && wait "$redis"; } 2>/dev/null
	if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then
		client list --json | grep -q '"target"' && client detach --force demo
		kill "$server" && wait "$server" 2>/dev/null
	fi
	if [ $status != 0 ] && [ -e "$work/slackerd.log" ]; then
		echo "demo: the end of the server's log:" >&2
		tail -5 "$work/slackerd.log" >&2
	fi
	rm -rf --one-file-system "$work"
	rm -f "$rootfs.new"
	exit $status
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
client() { slacker-client --server "$api" --state-dir "$work/state" "$@"; }
admin() { slackerctl --server "$api" "$@"; }
metric() { curl -sf "${api/tcp:/http:}/metrics" | awk -v m="$1" '$1 == m { printf "%d", $2 }'; }

if [ ! -e "$rootfs" ]; then
	say "making a Debian $suite root file system with redis (once, about a minute)"
	mkdir -p "$cache"
	sources=()
	for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list; do
		if [ -s "$file" ] && grep -q "$suite" "$file"; then sources+=("$file"); fi
	done
	mmdebstrap --quiet --variant=minbase --include=redis-server --format=tar "$suite" "$rootfs.new" "${sources[@]}"
	mv "$rootfs.new" "$rootfs"
fi

say "starting slackerd"
mkdir "$mount"
slackerd serve --data-dir "$work/data" --nbd-listen tcp://127.0.0.1:0 --api-listen tcp://127.0.0.1:0 2>"$work/slackerd.log" &
server=$!
api=''
for _ in $(seq 300); do
	api=$(sed -n 's/.*"msg":"serving".*"api":\["\([^"]*\)".*/\1/p' "$work/slackerd.log")
	[ -z "$api" ] || break
	kill -0 "$server" 2>/dev/null || fail "slackerd ended"
	sleep 0.1
done
[ -n "$api" ] || fail "slackerd does not serve after 30 s"

say "importing $(basename "$rootfs") as debian@redis"
t_import=$(now)
admin image import "$rootfs" debian@redis
t_imported=$(now)
sent=$(metric 'slacker_nbd_command_bytes_total{command="read"}')
received=$(metric 'slacker_nbd_command_bytes_total{command="write"}')

say "cloning, attaching, running redis on the clone"
t0=$(now)
admin clone debian@redis demo >/dev/null
t_cloned=$(now)
device=$(client attach --mount "$mount" demo)
t_attached=$(now)
chroot "$mount" redis-server --port 0 --unixsocket /run/demo.sock --dir /var/lib/redis >"$work/redis.log" 2>&1 &
redis=$!
answer=''
for _ in $(seq 3000); do
	answer=$(chroot "$mount" redis-cli -s /run/demo.sock ping 2>/dev/null || true)
	[ "$answer" != PONG ] || break
	kill -0 "$redis" 2>/dev/null || fail "redis ended: $(tail -3 "$work/redis.log")"
	sleep 0.01
done
t_pong=$(now)
[ "$answer" = PONG ] || fail "redis does not answer: $(tail -3 "$work/redis.log")"
say "redis answers $answer from $device"
sent=$(($(metric 'slacker_nbd_command_bytes_total{command="read"}') - sent))
received=$(($(metric 'slacker_nbd_command_bytes_total{command="write"}') - received))
[ "$(chroot "$mount" redis-cli -s /run/demo.sock set greeting hello)" = OK ] || fail "redis takes no data"
chroot "$mount" redis-cli -s /run/demo.sock save >/dev/null
data=$(metric slacker_store_data_bytes)

say "stopping"
kill "$redis"
wait "$redis" 2>/dev/null || true
redis=''
client detach demo
admin volume rm demo >/dev/null
if awk -v dir="$mount" '$2 == dir { found = 1 } END { exit !found }' /proc/mounts; then fail "$mount is still mounted"; fi
kill "$server"
wait "$server" || fail "slackerd ended with status $?"
server=''

image=$(stat -c %s "$rootfs")
printf '\n'
printf '  %-46s %s\n' \
	"image (tar)" "$(human "$image")" \
	"stored" "$(human "$data")" \
	"import" "$(ms "$t_import" "$t_imported")" \
	"clone" "$(ms "$t0" "$t_cloned")" \
	"attach and mount" "$(ms "$t_cloned" "$t_attached")" \
	"redis-server to PONG" "$(ms "$t_attached" "$t_pong")" \
	"clone to PONG, in all" "$(ms "$t0" "$t_pong")" \
	"fetched over the network, clone to PONG" "$(human "$sent") ($((sent * 1000 / image / 10)).$((sent * 1000 / image % 10)) % of the image)" \
	"written over the network, clone to PONG" "$(human "$received")"
