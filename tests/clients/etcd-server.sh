# The reference, etcd 3.4, from Debian: only installed here. Exit code 1 where it cannot be had.
export WORK=/nonexistent HOST=none PORT=0
. "$(dirname "$0")/lib.sh"
install etcd-server debian etcd-server
[ -x tree/usr/bin/etcd ]
