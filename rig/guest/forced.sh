# forced.sh API-PORT: detach --force while the server is away, and while it hangs, with
# unwritten data, a writer that waits and a file that stays open. The host makes the
# server go at RIG-AWAY and RIG-HANG, and brings it back at RIG-BACK.
. /lib.sh
lists() { slacker-client list | grep "$1" >/dev/null; }
await() { # WHAT COMMAND...: until COMMAND succeeds
	what=$1 i=0
	shift
	while ! "$@"; do
		[ $i -lt 600 ] || die "not after some minutes: $what"
		sleep 0.1
		i=$((i + 1))
	done
}

# forced MARK: the server goes, and v is detached all the same.
forced() {
	step "$1: attach and write"
	slacker-client attach --driver nbd --request-timeout 5s --mkfs --mount /mnt/v v || die attach
	cp /bin/busybox /mnt/v/kept && sync
	sh -c 'exec 3>/mnt/v/open; echo here >&3; exec sleep 100000' &
	holder=$!
	await "the open file" test -s /mnt/v/open
	echo "$1"
	await "the server to go" lists unverified
	dd if=/dev/urandom of=/mnt/v/lost bs=1M count=8 conv=fsync 2>/tmp/dd &
	writer=$!
	step "$1: detach --force"
	read -r before _ </proc/uptime
	slacker-client -v detach --force v || die "detach --force with a server that is away"
	read -r after _ </proc/uptime
	step "$1: took from $before to $after"
	[ "${after%.*}" -le $((${before%.*} + 60)) ] || die "it took too long"
	grep /mnt/v /proc/mounts && die "still mounted"
	wait $writer && die "what could not be written counts as written"
	kill $holder
	wait $holder
	nothing_left
	echo RIG-BACK
	# One that hung may have ended the attachment after all.
	[ "$1" = RIG-HANG ] || await "the server to list what it still has" lists "only the server knows of it"
	step "$1: attach again"
	await "an attachment" slacker-client -v attach --driver nbd --mount /mnt/v v
	cmp /bin/busybox /mnt/v/kept || die "what was synced is lost"
	slacker-client detach v || die "detach"
	nothing_left
}
forced RIG-AWAY
forced RIG-HANG
step done
