# etcdjs 2.4.2 from npm: its own tests. Those of wait.js are left out: with Node 20 the first of them
# hangs, on etcd too.
. "$(dirname "$0")/lib.sh"
need node
need npm
fetch() {
    npm_install etcdjs@2.4.2 tape@4
    sed -i 's#require(.../../.)#require("etcdjs")#' package/test/helpers/test.js
}
install etcdjs
ETCD_HOST=$URL timeout 300 node_modules/.bin/tape package/test/{basic,compare,meta}.js | from_tap
# A failed test makes tape's exit code 1.
exit 0
