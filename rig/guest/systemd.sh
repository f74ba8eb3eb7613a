# systemd.sh: slackerd by its units under systemd, in this guest, with the kernel's NBD
# client attached to it. The program that is installed in its place is /next/slackerd.
export PATH=$PATH:/usr/local/bin
. /lib.sh
export SLACKER_SERVER=unix:///run/slacker/api.sock
unit=slackerd.service

fail() {
	systemctl --no-pager status $unit slackerd-nbd.socket slackerd-api.socket
	journalctl --no-pager -n 60
	die "$@"
}
# is PROPERTY VALUE: what systemd says of the server.
is() {
	got=$(systemctl show -P "$1" $unit)
	[ "$got" = "$2" ] || fail "$1 is $got, want $2"
}
property() { systemctl show -P "$1" $unit; }
await() { # WHAT COMMAND...: until COMMAND succeeds
	what=$1 i=0
	shift
	while ! "$@" >/dev/null 2>&1; do
		[ $i -lt 600 ] || fail "not after a minute: $what"
		sleep 0.1
		i=$((i + 1))
	done
}
status() { slackerctl status --json; }
changed() { [ "$(property "$1")" != "$2" ]; } # PROPERTY FROM
logged() { journalctl --no-pager -u $unit | grep "$1" >/dev/null; }

step "units: $(systemctl --version | head -n1)"
systemctl daemon-reload
systemctl enable --now $unit || fail "enable"
systemctl is-enabled slackerd.service slackerd-nbd.socket slackerd-api.socket || fail "not all are enabled"
is ActiveState active
systemctl is-active slackerd-nbd.socket slackerd-api.socket || fail "a socket is not active"
status || fail "status"

step "socket activation: the first client starts it"
systemctl stop $unit
is ActiveState inactive
[ -S /run/slacker/api.sock ] || fail "the socket went with the service"
status >/dev/null || fail "status after a stop"
is ActiveState active

step "readiness: a start returns when it serves; NBD activates too"
systemctl stop $unit
slackerctl --server http://127.0.0.1:10808 volume create v --size 64MiB || fail "create, over TCP"
is Type notify
is StatusText "serving NBD on tcp://127.0.0.1:10809 unix:///run/slacker/nbd.sock, API on tcp://127.0.0.1:10808 unix:///run/slacker/api.sock"

step attach
slacker-client attach --driver nbd --request-timeout 5s --mkfs --mount /mnt/v v || fail attach
(
	n=0
	while [ ! -e /tmp/stop ]; do
		dd if=/dev/urandom of=/mnt/v/f$((n % 8)) bs=64k count=2 conv=fsync 2>/tmp/dd || cat /tmp/dd >>/tmp/errors
		n=$((n + 1))
		echo $n >/tmp/n.new && mv /tmp/n.new /tmp/n
	done
	touch /tmp/stopped
) &
# goes_on: the writer has written five times since.
more() { [ "$(cat /tmp/n)" -ge "$goal" ]; }
goes_on() {
	await "a first write" test -s /tmp/n
	goal=$(($(cat /tmp/n) + 5))
	await "five more writes" more
	[ ! -s /tmp/errors ] || fail "a write failed: $(cat /tmp/errors)"
}
goes_on
pid=$(property MainPID)

step "systemctl reload: nobody notices"
systemctl reload $unit || fail reload
is MainPID "$pid"
goes_on

step "slackerctl server upgrade: another program, the same main process, the connections kept"
mv /next/slackerd /usr/local/bin/slackerd.new && mv /usr/local/bin/slackerd.new /usr/local/bin/slackerd
upgrade=$(slackerctl server upgrade --json) || fail upgrade
echo "$upgrade" | tr -d '\n'
echo
echo "$upgrade" | grep '"after": "next' || fail "not the new program"
echo "$upgrade" | grep '"connections": [1-9]' || fail "no connection was kept"
is MainPID "$pid"
is NRestarts 0
is ActiveState active
is SubState running
goes_on

step "watchdog: it is fed, also by the new program"
before=$(property WatchdogTimestampMonotonic)
await "a sign of life" changed WatchdogTimestampMonotonic "$before"
step "watchdog: a server that hangs is ended and started"
kill -STOP "$pid"
await "a restart" changed NRestarts 0
await "another main process" changed MainPID "$pid"
logged "Watchdog timeout" || fail "it was not the watchdog"
status >/dev/null || fail "status"
goes_on

step "kill -9: it is started again"
pid=$(property MainPID)
kill -9 "$pid"
await "another main process" changed MainPID "$pid"
status >/dev/null || fail "status"
goes_on

step "systemctl restart, and stop: the sockets stay, clients wait"
systemctl restart $unit || fail restart
goes_on
systemctl stop $unit
[ -n "$(ls /run/slacker/*.sock)" ] || fail "the sockets are gone"
slacker-client list | grep "v " || fail "the worker's state is gone"
systemctl start $unit
goes_on

touch /tmp/stop
await "the writer's end" test -e /tmp/stopped
sha256sum /mnt/v/f* >/tmp/sums
step "the units of the worker"
systemctl start slacker-client-clean || fail "slacker-client-clean"
slacker-client list
systemctl start slacker-snapshotter || fail "slacker-snapshotter"
systemctl stop slacker-snapshotter slacker-snapshotter.socket || fail "stop slacker-snapshotter"
slacker-client detach v || fail detach
echo 3 >/proc/sys/vm/drop_caches
slacker-client attach --driver nbd --mount /mnt/v v || fail "attach again"
sha256sum -c /tmp/sums || fail "the data changed"
slacker-client detach v || fail "detach again"
nothing_left
step "after a boot without a server: slacker-client-clean tries until there is one"
systemctl stop $unit slackerd-nbd.socket slackerd-api.socket
systemctl start --no-block slacker-client-clean
clean() { [ "$(systemctl show -P "$1" slacker-client-clean)" = "$2" ]; } # PROPERTY VALUE
await "it fails" clean Result exit-code
systemctl start $unit
await "it is done" clean Result success
clean ActiveState inactive || fail "slacker-client-clean is not done"
no_errors
step "done, $(cat /tmp/n) synced writes"
