# Shared by the tests in the guest. Their first argument is the port of the
# admin API on the host, which the guest sees as 10.0.2.2.
export SLACKER_SERVER=http://10.0.2.2:$1
if [ -e /tls/ca.crt ]; then
	chmod 600 /tls/worker.key
	export SLACKER_SERVER=https://10.0.2.2:$1 SLACKER_TLS_CA=/tls/ca.crt SLACKER_TLS_CERT=/tls/worker.crt SLACKER_TLS_KEY=/tls/worker.key
fi

step() { read -r up _ </proc/uptime; echo "STEP $up $*"; }
die() { echo "FAIL $*"; slacker-client list; exit 1; }

# no_errors: the kernel has reported no failed I/O.
no_errors() {
	if dmesg | grep -iE 'I/O error|EXT4-fs error|remounting filesystem read-only|blk_update_request'; then die "the kernel saw an error"; fi
}

# nothing_left: after a detach nothing of it is in the guest.
nothing_left() {
	for size in /sys/block/nbd*/pid; do [ ! -e "$size" ] || die "$size: a device is still connected"; done
	grep -q nbd /proc/mounts && die "a device is still mounted"
	[ "$(slacker-client list --json | tr -d ' \n')" = "[]" ] || die "the list is not empty"
	i=0
	while ps | grep -v grep | grep -q 'slacker-client'; do
		[ $i -lt 50 ] || die "a process is left: $(ps | grep slacker-client)"
		sleep 0.1
		i=$((i + 1))
	done
}
