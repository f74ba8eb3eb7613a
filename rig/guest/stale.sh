# stale.sh API-PORT: a write that the server holds must not land after the
# kernel has given up on it, sent it again, and overwritten the block.
. /lib.sh
device=$(slacker-client attach --driver nbd --request-timeout 3s --connections "$2" v) || die attach
block() { yes "$1" | dd of=/tmp/block bs=4096 count=1 iflag=fullblock 2>/dev/null; }
value() { dd if="$device" bs=4096 count=1 iflag=direct 2>/dev/null | head -c 7; }
block HOLD-ME
step "write the block that the server holds"
dd if=/tmp/block of="$device" bs=4096 count=1 oflag=direct 2>/dev/null || die "the first write failed"
step "the first write was answered"
block VALUE-2
dd if=/tmp/block of="$device" bs=4096 count=1 oflag=direct 2>/dev/null || die "the second write failed"
step "the second write was answered"
[ "$(value)" = VALUE-2 ] || die "right after it the block holds $(value)"
step RIG-OVERWRITTEN
sleep 10
[ "$(value)" = VALUE-2 ] || die "the stale write landed: the block holds $(value)"
slacker-client detach v || die detach
device=$(slacker-client attach --driver nbd --read-only v) || die "attach again"
[ "$(value)" = VALUE-2 ] || die "after attaching anew the block holds $(value)"
slacker-client detach v || die "detach again"
nothing_left
step done
