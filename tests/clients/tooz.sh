# tooz 2.11.0 from PyPI, the last but few with a driver for the v2 interface: tooz-locks.py uses its locks.
. "$(dirname "$0")/lib.sh"
need python3
fetch() { python tooz==2.11.0 'setuptools<80' 'oslo.utils<7' requests; }
install tooz
PYTHONPATH=$PWD/site:$HERE timeout 300 python3 "$HERE/tooz-locks.py"
