# node-etcd 7.0.0 from npm. Its own tests talk to no server: node-etcd.js calls each of its functions.
. "$(dirname "$0")/lib.sh"
need node
need npm
install node-etcd npm_install node-etcd@7.0.0
NODE_PATH=$PWD/node_modules timeout 300 node "$HERE/node-etcd.js"
