# The v2 client for Go of etcd 3.4, from Debian: go-client.go calls each of its functions.
. "$(dirname "$0")/lib.sh"
. "$HERE/go.sh"
URL=$URL timeout 200 ./client
