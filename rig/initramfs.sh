#!/bin/bash
# initramfs.sh KERNEL_ROOT OUT [SOURCE:DESTINATION ...]
#
# Makes an initramfs of busybox, the modules that the guest needs, a few
# programs of e2fsprogs and util-linux with their libraries, guest/init, and
# the files named. Needs no root.
set -euo pipefail
kernel=$1 out=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
builtin_list=$(find "$kernel" -maxdepth 6 -name modules.builtin -print -quit)
[ -n "$builtin_list" ] || { echo "initramfs: no modules under $kernel" >&2; exit 1; }
modules=$(dirname "$builtin_list")
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree"/{bin,dev,etc,lib/modules,mnt,proc,run,sys,tmp,usr/bin,var/lib}

# put SOURCE DESTINATION: a program with the libraries it needs.
put() {
	local source library
	source=$(readlink -f "$1")
	mkdir -p "$tree$(dirname "$2")"
	cp "$source" "$tree$2"
	chmod 755 "$tree$2"
	for library in $({ ldd "$source" 2>/dev/null || true; } | { grep -oE '/[^ ]+' || true; }); do
		mkdir -p "$tree$(dirname "$library")"
		[ -e "$tree$library" ] || cp -L "$library" "$tree$library"
	done
}

# Modules go in with what they depend on before them, as modinfo tells.
declare -A file seen
while IFS= read -r path; do
	name=$(basename "$path")
	name=${name%%.ko*}
	file[${name//-/_}]=$path
done < <(find "$modules" -name '*.ko' -o -name '*.ko.xz')
add_module() {
	local name=${1//-/_} path dependency
	[ -z "${seen[$name]:-}" ] || return 0
	seen[$name]=1
	path=${file[$name]:-}
	[ -n "$path" ] || return 0 # built in
	case $path in
	*.xz) xz -dc "$path" >"$tree/lib/modules/$name.ko" ;;
	*) cp "$path" "$tree/lib/modules/$name.ko" ;;
	esac
	for dependency in $(strings -a "$tree/lib/modules/$name.ko" | sed -n 's/^depends=//p' | tr , ' '); do
		add_module "$dependency"
	done
	echo "$name" >>"$tree/etc/modules"
}
for name in crc32c_generic virtio_pci virtio_net nbd fuse loop; do add_module "$name"; done

put /bin/busybox /bin/busybox
for program in mkfs.ext4 e2fsck blkid fstrim tune2fs nbd-client; do
	put "$(PATH=$PATH:/usr/sbin:/sbin command -v "$program")" "/usr/bin/$program"
done
if [ -e /etc/mke2fs.conf ]; then cp /etc/mke2fs.conf "$tree/etc/"; fi
echo 0123456789abcdef0123456789abcdef >"$tree/etc/machine-id"
put "$here/guest/init" /init
for pair in "$@"; do put "${pair%%:*}" "${pair#*:}"; done
(cd "$tree" && find . -mindepth 1 | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) >"$out"
