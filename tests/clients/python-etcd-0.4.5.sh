# python-etcd 0.4.5 from PyPI: its integration tests that need one server.
. "$(dirname "$0")/lib.sh"
need python3
fetch() {
    source_of python-etcd==0.4.5
    python urllib3 dnspython
}
install python-etcd-0.4.5
exec python3 "$HERE/python-etcd.py" "$PWD" etcd test_simple
