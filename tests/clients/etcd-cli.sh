# etcd-cli 0.1.3 from npm: its own tests, but one that ends twice (`Watch childs`).
. "$(dirname "$0")/lib.sh"
need node
need npm
install etcd-cli npm_install etcd-cli@0.1.3 mocha@5 chai@3
cp -r package/test "$WORK/test"
sed -i -e "s#127.0.0.1:2379#$HOST:$PORT#g" -e "s#require('../')#require('etcd-cli')#" -e "s#require('../lib/#require('etcd-cli/lib/#" "$WORK"/test/*.js
# A watch that is redirected begins a little later than the write that the test sends at once.
sed -i "s#etcd.set('/unittest/watcher', 'testdata').catch(done)#setTimeout(() => &, 300)#" "$WORK/test/watcher.js"
export NODE_OPTIONS=--unhandled-rejections=warn NODE_PATH=$PWD/node_modules
timeout 300 node_modules/.bin/mocha --exit --timeout 15000 --grep "Watch childs" --invert --reporter tap "$WORK/test" | from_tap
exit 0
