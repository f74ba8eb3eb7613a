#!/bin/sh
# The entry point of the jetty image.
set -e
mkdir -p /run/jetty9 /tmp/jetty
cd /var/lib/jetty9
exec java -Djava.io.tmpdir=/tmp/jetty -Djetty.home=/usr/share/jetty9 -Djetty.base=/var/lib/jetty9 -jar /usr/share/jetty9/start.jar "$@"
