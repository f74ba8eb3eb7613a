# tls.sh API-PORT SECONDS NBD-PORT: restart.sh over TLS, after plaintext was
# refused.
. /lib.sh
step "plaintext to the admin API is refused"
SLACKER_TLS_CA='' SLACKER_TLS_CERT='' SLACKER_TLS_KEY='' slacker-client --server "http://10.0.2.2:$1" attach --driver nbd v && die "attached in plaintext"
step "plaintext to NBD is refused"
nbd-client -N v 10.0.2.2 "$3" /dev/nbd7 && die "the kernel was connected in plaintext"
[ ! -e /sys/block/nbd7/pid ] || die "nbd7 is connected"
. /restart.sh
