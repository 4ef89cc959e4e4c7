# etcdctl of etcd 3.4 with ETCDCTL_API=2, from Debian: each of its commands that needs no
# authentication.
. "$(dirname "$0")/lib.sh"
need apt-get
need dpkg-deb
install etcdctl debian etcd-client

export ETCDCTL_API=2 ETCDCTL_ENDPOINTS=$URL
ctl=$CACHE/etcdctl/tree/usr/bin/etcdctl
# watched ARGUMENTS…: the first line that etcdctl prints within 10 s, while a key changes.
watched() {
    local out=$WORK/watched
    timeout 10 "$ctl" "$@" >"$out" 2>&1 &
    local watcher=$!
    for _ in $(seq 100); do
        sleep 0.1
        "$ctl" set /clients/watched "v$RANDOM" >/dev/null 2>&1
        kill -0 $watcher 2>/dev/null || break
        [ -s "$out" ] && break
    done
    kill $watcher 2>/dev/null
    wait $watcher 2>/dev/null
    head -n 1 "$out"
}

check_watch() {
    local name=$1 expected=$2
    shift 2
    # shellcheck disable=SC2053
    if [[ $(watched "$@") == $expected ]]; then echo "pass $name"; else echo "fail $name: $(head -c 200 "$WORK/watched")"; fi
}

"$ctl" rm --recursive /clients >/dev/null 2>&1
check set 'one' "$ctl" set /clients/a one
check get 'one' "$ctl" get /clients/a
check get-json '{"action":"get","node":{"key":"/clients/a","value":"one",*' "$ctl" -o json get /clients/a
check get-extended 'Key: *Created-Index: *Modified-Index: *one' "$ctl" -o extended get /clients/a
check get-quorum 'one' "$ctl" get --quorum /clients/a
check get-missing 'Error:  100: Key not found*' "$ctl" get /clients/none
check mk 'two' "$ctl" mk /clients/b two
check mk-existing 'Error:  105: Key already exists*' "$ctl" mk /clients/b two
check mk-in-order 'three' "$ctl" mk --in-order /clients/queue three
check mk-ttl 'short' "$ctl" mk --ttl 100 /clients/mk-ttl short
check update 'four*' "$ctl" update /clients/b four
check update-missing 'Error:  100: Key not found*' "$ctl" update /clients/none x
check set-swap 'five*' "$ctl" set --swap-with-value four /clients/b five
check set-swap-differs 'Error:  101: Compare failed*' "$ctl" set --swap-with-value four /clients/b six
check set-ttl 'short' "$ctl" set --ttl 100 /clients/ttl short
check mkdir '' "$ctl" mkdir /clients/dir
check mkdir-existing 'Error:  105: Key already exists*' "$ctl" mkdir /clients/dir
check setdir '' "$ctl" setdir --ttl 100 /clients/dir2
check updatedir '' "$ctl" updatedir --ttl 200 /clients/dir2
check ls '*/clients/a*/clients/dir*' "$ctl" ls --sort /clients
check ls-recursive '*/clients/queue/*' "$ctl" ls --recursive -p /clients
check rmdir '' "$ctl" rmdir /clients/dir
check rmdir-full 'Error:  108: Directory not empty*' "$ctl" rmdir /clients
check rm 'PrevNode.Value: one' "$ctl" rm /clients/a
check rm-with-value '' "$ctl" rm --with-value five /clients/b
check rm-missing 'Error:  100: Key not found*' "$ctl" rm /clients/a
check_watch watch 'v*' watch /clients/watched
check watch-after-index '*' "$ctl" watch --after-index 1 /clients/watched
check member-list '*name=*peerURLs=http*clientURLs=http*isLeader=*' "$ctl" member list
check cluster-health '*cluster is healthy*' "$ctl" cluster-health
check rm-recursive '' "$ctl" rm --recursive /clients
