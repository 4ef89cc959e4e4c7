# k3etcd 0.2.3 from PyPI. Its own tests start etcd in Docker: k3etcd-calls.py makes the calls of its README and synopsis.
. "$(dirname "$0")/lib.sh"
need python3
install k3etcd python k3etcd==0.2.3
PYTHONPATH=$PWD/site timeout 300 python3 "$HERE/k3etcd-calls.py"
