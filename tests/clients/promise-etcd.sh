# promise-etcd 2.2.0 from npm: its own tests. Those called selfStat are left out: they dial servers that do not
# exist, and how long that takes decides what they find, on etcd too.
. "$(dirname "$0")/lib.sh"
need node
need npm
install promise-etcd npm_install promise-etcd@2.2.0 mocha@5 chai@4
cp -r package/dist "$WORK/dist"
sed -i -e "s#\(localhost\|127.0.0.1\):2379#\1:$PORT#" "$WORK"/dist/*/*.js
ln -s "$PWD/node_modules" "$WORK/node_modules"
cd "$WORK" || exit 1
# Written for Node 8, where `localhost` is 127.0.0.1, and a promise that fails unheard does not end the program.
export NODE_OPTIONS="--dns-result-order=ipv4first --unhandled-rejections=warn"
three_tries timeout 300 node_modules/.bin/mocha --exit --timeout 15000 --grep selfStat --invert --reporter tap dist/test/*-test.js |
    from_tap
exit 0
