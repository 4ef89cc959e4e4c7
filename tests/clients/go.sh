# What Debian's Go clients share: the compiler, the packages, and both programs of tests.
need apt-get
need dpkg-deb
fetch() {
    debian golang-1.19-go golang-1.19-src golang-etcd-server-dev golang-github-docker-libkv-dev \
        golang-github-coreos-go-semver-dev golang-github-json-iterator-go-dev golang-github-modern-go-reflect2-dev \
        golang-github-modern-go-concurrent-dev golang-go.uber-zap-dev golang-go.uber-multierr-dev golang-go.uber-atomic-dev \
        golang-golang-x-net-dev golang-golang-x-text-dev golang-github-stretchr-testify-dev golang-github-davecgh-go-spew-dev \
        golang-github-pmezard-go-difflib-dev golang-github-stretchr-objx-dev golang-gopkg-yaml.v3-dev
    export GOROOT=$PWD/tree/usr/lib/go-1.19 GOPATH=$PWD/tree/usr/share/gocode GO111MODULE=off GOCACHE=$PWD/built CGO_ENABLED=0 GOFLAGS=-p=1
    sed -i 's#client *= "localhost:4001"#client = os.Getenv("HOST") + ":" + os.Getenv("PORT")#; s#^import (#&\n"os"#' \
        "$GOPATH/src/github.com/docker/libkv/store/etcd/etcd_test.go"
    "$GOROOT/bin/go" build -o client "$HERE/go-client.go"
    "$GOROOT/bin/go" test -c -o libkv github.com/docker/libkv/store/etcd
    rm -rf tree built
}
export HERE
install go-etcd
