# txetcd 0.0.3 from PyPI, a client of the v1 interface. It has neither tests nor a README: txetcd-calls.py calls its functions.
. "$(dirname "$0")/lib.sh"
need python3
install txetcd python txetcd==0.0.3
PYTHONPATH=$PWD/site timeout 300 python3 "$HERE/txetcd-calls.py"
