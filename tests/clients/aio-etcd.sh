# aio-etcd 0.4.6.1 from PyPI. It has no tests of its own: aio-etcd.py makes the calls that its README shows.
. "$(dirname "$0")/lib.sh"
need python3
fetch() {
    source_of aio-etcd==0.4.6.1
    python python-etcd aiohttp
}
install aio-etcd
PYTHONPATH=$PWD:$PWD/site timeout 300 python3 "$HERE/aio-etcd.py" 2>/dev/null
