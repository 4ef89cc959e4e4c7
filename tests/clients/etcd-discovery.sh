# etcd-discovery, the server of discovery.etcd.io, from Debian: keeps its tokens in the server under test. Two machines of
# tern find each other through it.
. "$(dirname "$0")/lib.sh"
need apt-get
need dpkg-deb
fetch() {
    debian etcd-discovery
    # It reads its settings from one place only: let that be the folder in which it runs.
    sed -i 's#/etc/etcd-discovery/etcd-discovery.conf#././././././././././etcd-discovery.conf#' tree/usr/bin/discovery.etcd.io
}
install etcd-discovery
DISCOVERY=$PWD/tree/usr/bin/discovery.etcd.io timeout 200 python3 "$HERE/etcd-discovery.py"
