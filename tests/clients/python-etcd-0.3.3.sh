# python-etcd 0.3.3 from PyPI: its integration tests that need one server, with those of the lock
# and leader modules.
. "$(dirname "$0")/lib.sh"
need python3
fetch() {
    source_of python-etcd==0.3.3
    python urllib3 dnspython
}
install python-etcd-0.3.3
exec python3 "$HERE/python-etcd.py" "$PWD" etcd test_simple test_lock test_election
