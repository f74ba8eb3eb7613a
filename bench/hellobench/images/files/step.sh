#!/bin/sh
# step.sh makes one layer: it mounts the layers below and an empty one on top,
# and runs a script in them. It runs in mount and process namespaces of its own,
# so that its mounts and whatever it started end with it.
#
# LOWER    the trees below, uppermost first, with colons between
# UPPER    the tree of this layer; WORK is overlayfs' own, ROOT the mount point
# APT      what apt downloads, or empty
# STAGED   files to put in place; each line of STAGED.list is MODE NAME PATH
# SCRIPT   what to run inside
set -eu

mount -t overlay -o "lowerdir=$LOWER,upperdir=$UPPER,workdir=$WORK,redirect_dir=off,metacopy=off,index=off" hellobench "$ROOT"
mount -t proc proc "$ROOT/proc"
mount -t tmpfs -o mode=1777 tmp "$ROOT/tmp"
mount -t tmpfs -o mode=755 dev "$ROOT/dev"
for device in null zero full random urandom tty; do
	: >"$ROOT/dev/$device"
	mount --bind "/dev/$device" "$ROOT/dev/$device"
done
mkdir -m 1777 "$ROOT/dev/shm"
ln -s /proc/self/fd "$ROOT/dev/fd"
ln -s /proc/self/fd/0 "$ROOT/dev/stdin"
ln -s /proc/self/fd/1 "$ROOT/dev/stdout"
ln -s /proc/self/fd/2 "$ROOT/dev/stderr"
if [ -e "$ROOT/etc/resolv.conf" ]; then mount --bind /etc/resolv.conf "$ROOT/etc/resolv.conf"; fi
if [ -n "$APT" ]; then
	mount --bind "$APT/archives" "$ROOT/var/cache/apt/archives"
	mount --bind "$APT/lists" "$ROOT/var/lib/apt/lists"
fi
while read -r mode name path; do
	install -D -m "$mode" "$STAGED/$name" "$ROOT$path"
done <"$STAGED.list"
cp "$SCRIPT" "$ROOT/tmp/script"
exec env -i HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
	PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" chroot "$ROOT" sh -eu /tmp/script
