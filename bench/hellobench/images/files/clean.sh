# What building leaves behind that no container needs, and that differs from
# one time to the next.
rm -rf /var/log/apt /var/log/*.log /var/cache/ldconfig/aux-cache /var/cache/apt/*.bin \
	/var/cache/debconf/*-old /var/lib/dpkg/*-old /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/subuid- /etc/subgid- \
	/root/.cache /root/.npm /root/.gem
if [ -s /etc/machine-id ]; then : >/etc/machine-id; fi
