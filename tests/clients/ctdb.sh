# ctdb_etcd_lock of Samba's package ctdb, from Debian, on python-etcd 0.4.5: the cluster lock of CTDB.
. "$(dirname "$0")/lib.sh"
need apt-get
need dpkg-deb
need python3
fetch() {
    debian ctdb
    python python-etcd==0.4.5
}
install ctdb
# It asks two programs for the name of the cluster and the number of the node.
mkdir "$WORK/bin"
printf '#!/bin/sh\necho CLUSTER\n' >"$WORK/bin/testparm"
printf '#!/bin/sh\necho $NODE\n' >"$WORK/bin/ctdb"
chmod +x "$WORK"/bin/*
printf 'host=%s\nport=%s\nlock_ttl=6\nlock_refresh=1\n' "$HOST" "$PORT" >"$WORK/etcd"
export PATH=$WORK/bin:$PATH PYTHONPATH=$PWD/site

# take NODE: tries to take the lock; `answer` reads what CTDB would: 0 taken, 1 held by another node.
take() {
    NODE=$1 python3 tree/usr/libexec/ctdb/ctdb_etcd_lock -v -c "$WORK/etcd" >"$WORK/out.$1" 2>"$WORK/errors.$1" &
    holder=$!
}
answer() {
    for _ in $(seq 100); do
        [ -s "$WORK/out.$1" ] && break
        sleep 0.1
    done
    head -c 1 "$WORK/out.$1"
    head -c 300 "$WORK/errors.$1"
}
take 1
first=$holder
check take 0 answer 1
sleep 8
take 2
check 'held beyond the ttl' 1 answer 2
kill $first
wait $first
# The second left its place in the queue, until its ttl is over.
sleep 7
take 3
check 'taken after a release' 0 answer 3
kill -9 $holder
wait $holder 2>/dev/null
sleep 8
take 4
check 'taken after the holder died' 0 answer 4
kill $holder
