# pyetcd 1.11.1 from PyPI: its functional tests.
. "$(dirname "$0")/lib.sh"
need python3
fetch() {
    source_of pyetcd==1.11.1
    python requests pytest
}
install pyetcd
cp tests/functional/test_client.py "$WORK/"
# The tests expect three servers at addresses of their own.
sed -i -e "s#10.0.3.1[012]:2379#$HOST:$PORT#g" -e "s#'10.0.3.1[012]',\?#('$HOST', $PORT),#" -e 's#Client(\[#Client(host=[#' "$WORK/test_client.py"
cd "$WORK" || exit 1
PYTHONPATH=$CACHE/pyetcd:$CACHE/pyetcd/site timeout 300 python3 -m pytest -rA -q --tb=line -p no:cacheprovider test_client.py |
    sed -n -e 's/^PASSED [^:]*::/pass /p' -e 's/^FAILED [^:]*::\([^ ]*\)\( - \)\?/fail \1: /p' -e 's/^ERROR [^:]*::\([^ ]*\)/fail \1: error/p'
exit 0
