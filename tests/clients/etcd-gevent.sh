# etcd-gevent 0.1.1 from PyPI: its integration tests that need one server.
. "$(dirname "$0")/lib.sh"
need python3
fetch() {
    source_of etcd-gevent==0.1.1
    python dnspython geventhttpclient gipc
}
install etcd-gevent
exec python3 "$HERE/python-etcd.py" "$PWD" etcd_gevent test_simple
