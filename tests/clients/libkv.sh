# libkv 0.2.1 on etcd's v2 client for Go, both from Debian: its own tests of etcd.
. "$(dirname "$0")/lib.sh"
. "$HERE/go.sh"
timeout 200 ./libkv -test.v | sed -n -e 's/^ *--- PASS: \([^ ]*\).*/pass \1/p' -e 's/^ *--- FAIL: \([^ ]*\).*/fail \1: /p'
exit 0
