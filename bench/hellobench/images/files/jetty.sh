#!/bin/sh
# The entry point of the jetty image. Debian's modules and start.ini are in
# jetty.home, which is the base too: a base of its own would have to name its modules.
set -e
mkdir -p /run/jetty9 /tmp/jetty
cd /usr/share/jetty9
exec java -Djava.awt.headless=true -Djava.io.tmpdir=/tmp/jetty -jar start.jar "$@"
