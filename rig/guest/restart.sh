# restart.sh API-PORT SECONDS: synced writes for that long, while the host
# kills the server and starts it again.
. /lib.sh
slacker-client attach --driver nbd --request-timeout 5s --mkfs --mount /mnt/v v || die attach
step RIG-WRITING
errors=0 n=0 longest=0
end=$(($(cut -d. -f1 /proc/uptime) + $2))
while [ "$(cut -d. -f1 /proc/uptime)" -lt "$end" ]; do
	a=$(cut -d' ' -f1 /proc/uptime | tr -d .)
	dd if=/dev/urandom of=/mnt/v/f$((n % 8)) bs=256k count=2 conv=fsync 2>/tmp/dd || { errors=$((errors + 1)); cat /tmp/dd; }
	b=$(cut -d' ' -f1 /proc/uptime | tr -d .)
	[ $((b - a)) -le $longest ] || longest=$((b - a))
	n=$((n + 1))
done
step "writes=$n errors=$errors longest=${longest}0ms"
[ $errors = 0 ] || die "a write failed"
[ $longest -ge 100 ] || die "no write was held up: the server was never away"
sha256sum /mnt/v/f* >/tmp/sums
slacker-client detach v || die detach
echo 3 >/proc/sys/vm/drop_caches
device=$(slacker-client attach --driver nbd --read-only v) || die "attach read-only"
/usr/bin/e2fsck -fn "$device" || die fsck
slacker-client detach v || die "detach read-only"
slacker-client attach --driver nbd --mount /mnt/v v || die "attach again"
sha256sum -c /tmp/sums || die "the data changed"
slacker-client detach v || die "detach again"
nothing_left
no_errors
step done
