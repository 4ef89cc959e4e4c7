# Patroni 4.1.5 and the driver of PostgreSQL from PyPI: only installed here.
export WORK=/nonexistent HOST=none PORT=0
. "$(dirname "$0")/lib.sh"
need /usr/bin/python3
install patroni python 'patroni[etcd]==4.1.5' psycopg2-binary
