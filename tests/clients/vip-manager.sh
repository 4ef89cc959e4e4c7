# vip-manager 1.0.2 from Debian: gives the machine that a key names an address. It runs in a network of its own, which a tunnel
# joins to the server.
. "$(dirname "$0")/lib.sh"
need apt-get
need dpkg-deb
need ip
need unshare
unshare -rn true 2>/dev/null || skip "a kernel that lets this user make namespaces"
install vip-manager debian vip-manager
python3 "$HERE/tunnel.py" "$WORK/socket" "$HOST:$PORT" &
inside() {
    ip link set lo up
    ip link add vip0 type veth peer name vip1
    ip addr add 10.9.9.1/24 dev vip0
    ip link set vip0 up
    ip link set vip1 up
    python3 "$HERE/tunnel.py" "$HOST:$PORT" "$WORK/socket" &
    sleep 1
    tree/usr/bin/vip-manager --interface vip0 --ip 10.9.9.9 --netmask 24 --trigger-key /service/pg/leader --trigger-value this \
        --dcs-type etcd --dcs-endpoints "$URL" --interval 300 >"$WORK/log" 2>&1 &
    # The address is there, or it is not, within 10 s.
    has_address() {
        for _ in $(seq 100); do
            [ "$(ip -o addr show vip0 | grep -c 10.9.9.9)" = "$1" ] && echo "$1" && return
            sleep 0.1
        done
        tail -n 3 "$WORK/log"
    }
    leader() { curl -s "$URL/v2/keys/service/pg/leader" -XPUT -d "value=$1" -o /dev/null; }
    leader other
    sleep 1
    check 'no address while another leads' 0 has_address 0
    leader this
    check 'address of the leader' 1 has_address 1
    leader other
    check 'address given up' 0 has_address 0
    leader this
    check 'address taken again' 1 has_address 1
    kill %1 %2
}
export WORK HOST PORT URL HERE
timeout 300 unshare -rn bash -c "$(declare -f); inside"
kill %1
exit 0
