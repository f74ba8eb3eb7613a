mkdir -p "$OUT/bin" "$OUT/dev" "$OUT/etc" "$OUT/proc" "$OUT/root" "$OUT/sys" "$OUT/tmp" "$OUT/var"
chmod 1777 "$OUT/tmp"
for program in $(dpkg -L busybox-static | grep -x '.*bin/busybox'); do
	cp "$program" "$OUT/bin/busybox"
done
for applet in $("$OUT/bin/busybox" --list); do
	[ "$applet" = busybox ] || ln -s busybox "$OUT/bin/$applet"
done
echo 'root:x:0:0:root:/root:/bin/sh' >"$OUT/etc/passwd"
echo 'root:x:0:' >"$OUT/etc/group"
