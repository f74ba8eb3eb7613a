// Package rig tests Slacker with a real Linux kernel. A Debian kernel boots in
// QEMU under software emulation (no KVM, no root, no network but QEMU's own)
// with slacker-client and the tests of guest/ in its initramfs; slackerd runs
// on the host, on loopback, which the guest sees as 10.0.2.2.
//
// The tests run when RIG=1 is set (make rig), since they fetch a kernel and
// take minutes. What they need beside Go: qemu-system-x86, busybox-static, cpio,
// xz-utils, binutils, e2fsprogs, util-linux, nbd-client, fio, redis-tools and
// sqlite3.
//
// TestSoak makes servers, the network and the worker's processes fail under
// databases in the guest: a short version by default, all of it with make rig-soak.
//
// The server is built with -tags rig, which lets it hold one marked write: the
// test of contract C9.
package rig
