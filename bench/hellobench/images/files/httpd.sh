#!/bin/sh
# The entry point of the httpd image: the server in the foreground.
set -e
. /etc/apache2/envvars
mkdir -p /run/lock
mkdir -p "$APACHE_RUN_DIR" "$APACHE_LOCK_DIR"
rm -f "$APACHE_PID_FILE"
exec apache2 -D FOREGROUND "$@"
