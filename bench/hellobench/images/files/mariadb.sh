#!/bin/sh
# The entry point of the mariadb image: makes the database once.
set -e
mkdir -p /run/mysqld /var/lib/mysql
chown mysql:mysql /run/mysqld /var/lib/mysql
if [ ! -d /var/lib/mysql/mysql ]; then
	mariadb-install-db --user=mysql --datadir=/var/lib/mysql --skip-test-db --force --skip-name-resolve --auth-root-authentication-method=normal
fi
exec "$@" --user=mysql --bind-address=0.0.0.0
