#!/bin/bash
# fetch-kernel.sh DIR
#
# Unpacks Debian's cloud kernel (27 MB; ext4 built in, nbd a module) into
# DIR/root. It is only downloaded, with the apt sources of this host, and
# unpacked: nothing is installed. Does nothing when it is there already.
set -euo pipefail
dir=${1:?usage: fetch-kernel.sh DIR}
if [ -e "$dir/root/.complete" ]; then exit 0; fi
mkdir -p "$dir"
cd "$dir"
meta=linux-image-cloud-$(dpkg --print-architecture)
if ! apt-cache show "$meta" >/dev/null 2>&1; then apt-get -q update >&2; fi
package=$(apt-cache depends "$meta" | awk '/Depends: linux-image-[0-9]/ { print $2; exit }')
if [ -z "$package" ]; then
	echo "fetch-kernel: apt knows no $meta: want the main component of Debian in /etc/apt" >&2
	exit 1
fi
echo "fetch-kernel: $package" >&2
rm -rf root.new root ./*.deb
apt-get -q -o APT::Sandbox::User=root download "$package" >&2
mkdir root.new
dpkg -x "$package"_*.deb root.new
rm -f ./*.deb
touch root.new/.complete
mv root.new root
