# etcd-leader 0.0.1 from npm, on node-etcd: its tests against a server.
. "$(dirname "$0")/lib.sh"
need node
need npm
install etcd-leader npm_install etcd-leader@0.0.1 node-etcd@4 mocha@5 chai@3
cp -r package/test "$WORK/test"
sed -i -e "s#\"localhost\", 4001#\"$HOST\", $PORT#" -e 's#"../index.js"#"etcd-leader"#' "$WORK/test/test-integration.js"
export NODE_OPTIONS=--unhandled-rejections=warn NODE_PATH=$PWD/node_modules
timeout 300 node_modules/.bin/mocha --exit --timeout 15000 --reporter tap "$WORK/test/test-integration.js" | from_tap
exit 0
