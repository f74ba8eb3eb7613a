# soak.sh API-PORT REQUEST-TIMEOUT: databases and fio on the kernel's NBD client
# while the host makes everything else fail; what the loads saw, and what is left.
. /lib.sh
load --request-timeout "$2" || die "the loads"
slacker-client list
slacker-client detach v || die "detach v"
slacker-client detach f || die "detach f"
device=$(slacker-client attach --driver nbd --read-only v) || die "attach read-only"
/usr/bin/e2fsck -fn "$device" || die fsck
slacker-client detach v || die "detach read-only"
nothing_left
no_errors
step done
