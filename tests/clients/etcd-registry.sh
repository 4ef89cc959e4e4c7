# etcd-registry 2.1.1 from npm: its own tests.
. "$(dirname "$0")/lib.sh"
need node
need npm
install etcd-registry npm_install etcd-registry@2.1.1 tape@4
sed -e "s#127.0.0.1:4001#$HOST:$PORT#" -e "s#require('tap').test#require('tape')#" -e "s#require('./')#require('etcd-registry')#" \
    package/test.js >"$WORK/test.js"
NODE_PATH=$PWD/node_modules timeout 300 node_modules/.bin/tape "$WORK/test.js" | from_tap
exit 0
