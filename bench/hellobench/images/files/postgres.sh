#!/bin/sh
# The entry point of the postgres image: makes the database once.
set -e
PGDATA=${PGDATA:-/var/lib/postgresql/data}
as="setpriv --reuid=postgres --regid=postgres --init-groups"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	mkdir -p "$PGDATA" /run/postgresql
	chown postgres:postgres "$PGDATA" /run/postgresql
	chmod 700 "$PGDATA"
	$as initdb --pgdata="$PGDATA" --username=postgres --auth=trust --encoding=UTF8
	echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
fi
exec $as "$@" -D "$PGDATA"
