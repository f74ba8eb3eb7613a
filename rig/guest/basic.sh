# basic.sh API-PORT NBD-PORT: a file system on the kernel's NBD client, from
# attach to detach, and with nbd-client.
. /lib.sh
step attach
slacker-client -v attach --driver nbd --mkfs --mount /mnt/v v || die attach
device=$(awk '$2 == "/mnt/v" { print $1 }' /proc/mounts)
case $device in /dev/nbd*) ;; *) die "mounted $device, want an nbd device" ;; esac
queue=/sys/block/${device#/dev/}/queue
[ "$(cat "$queue/write_cache")" = "write back" ] || die "no flush: durability is lost"
[ "$(cat "$queue/fua")" = 1 ] || die "no FUA"
[ "$(cat "$queue/discard_max_bytes")" != 0 ] || die "no discard"
[ "$(cat "/sys/block/${device#/dev/}/backend")" != "" ] || die "no backend identifier"
step "attach again gives the same device"
[ "$(slacker-client attach --driver nbd --mkfs --mount /mnt/v v)" = "$device" ] || die "another device"
step write
dd if=/dev/urandom of=/mnt/v/a bs=1M count=24 2>/dev/null
cp /bin/busybox /mnt/v/b
sha256sum /mnt/v/a >/tmp/sum
sync
rm /mnt/v/b
step metrics
slacker-client metrics | grep 'device_bytes_total{target="v",device="nbd[0-9]*",operation="write"} ' >/tmp/written || die "no metrics of the device"
awk '$2 < 24 * 1024 * 1024 { exit 1 }' /tmp/written || die "too few bytes: $(cat /tmp/written)"
step fstrim
/usr/bin/fstrim -v /mnt/v || die fstrim
step detach
slacker-client detach /mnt/v || die detach
nothing_left
step "attach and verify"
echo 3 >/proc/sys/vm/drop_caches
slacker-client attach --driver nbd --mount /mnt/v v || die "attach again"
sha256sum -c /tmp/sum || die "the data changed"
slacker-client detach v || die "detach again"
step fsck
device=$(slacker-client attach --driver nbd --read-only v) || die "attach read-only"
/usr/bin/e2fsck -fn "$device" || die fsck
slacker-client detach "$device" || die "detach by device"
nothing_left
for how in "" -g; do
	step "nbd-client $how" # -g: by EXPORT_NAME
	nbd-client $how -N v 10.0.2.2 "$2" /dev/nbd9 || die "nbd-client $how"
	mkdir -p /mnt/n
	mount -t ext4 /dev/nbd9 /mnt/n || die "mount what nbd-client connected"
	sed s:/mnt/v:/mnt/n: /tmp/sum >/tmp/sum-n
	sha256sum -c /tmp/sum-n || die "the data changed"
	date >/mnt/n/date
	sync
	umount /mnt/n
	nbd-client -d /dev/nbd9 || die "nbd-client -d"
done
nothing_left
no_errors
step done
