# salt 3006.17 from PyPI, on python-etcd 0.4.5: salt-module.py calls the functions of its module etcd.
. "$(dirname "$0")/lib.sh"
need python3
install salt python salt==3006.17 python-etcd==0.4.5 msgpack looseversion packaging distro PyYAML jinja2
PYTHONPATH=$PWD/site:$HERE timeout 200 python3 "$HERE/salt-module.py"
