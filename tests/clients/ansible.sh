# ansible 2.9.27 from PyPI, the last that has the lookup `etcd` of the v2 interface in itself.
. "$(dirname "$0")/lib.sh"
need python3
need curl
fetch() { python ansible==2.9.27 'jinja2<3.1'; }
install ansible
export PYTHONPATH=$PWD/site ANSIBLE_ETCD_URL=$URL ANSIBLE_ETCD_VERSION=v2 ANSIBLE_NOCOLOR=1 HOME=$WORK
lookup() {
    timeout 60 python3 site/bin/ansible localhost -m debug -a "msg={{ lookup('etcd', $1) }}" 2>&1
}
put() { curl -s "$URL/v2/keys/$1" -XPUT -d "value=$2" -o /dev/null; }
put ansible/a one
put ansible/b two
check lookup '*"msg": "one"*' lookup "'ansible/a'"
check 'lookup of two' '*"msg": "one,two"*' lookup "'ansible/a', 'ansible/b'"
check 'lookup of a directory' '*"a": "one"*"b": "two"*' lookup "'ansible'"
check 'lookup of nothing' '*"msg": ""*' lookup "'ansible/none'"
exit 0
