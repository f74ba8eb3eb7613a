#!/bin/sh
# The entry point of the redis image: the server as the user redis.
set -e
exec setpriv --reuid=redis --regid=redis --init-groups "$@"
