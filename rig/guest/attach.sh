# attach.sh ROUNDS CONNECTIONS: bench/attach with the kernel's NBD client, all of it in
# the guest.
. /lib.sh
mkdir -p /etc/default /usr/lib
date >/etc/default/date
date >/usr/lib/os-release
mkdir /store
mount -t tmpfs -o size=16g store /store # slackerd wants room that it does not use
step attach
attach -bin /usr/bin -dir /store -driver nbd -rounds "$1" -connections "$2" >/tmp/figures || die "attach $2"
while read -r line; do step "$line"; done </tmp/figures
no_errors
