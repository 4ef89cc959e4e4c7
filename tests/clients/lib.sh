# What the scripts of the clients share. run.py starts each script with
#   CACHE  the folder that keeps what was installed, one folder a client
#   WORK   an empty folder
#   HOST PORT  the client port of the server under test
#   PEER_PORT  the peer port of the leader
#   TERN   the program tern
# and reads from its output a line for each test: `pass NAME`, or `fail NAME: what was wrong`.
# A script that cannot run prints `skipped: needs …` and ends.
set -uo pipefail

URL="http://$HOST:$PORT"
HERE=$(cd "$(dirname "$0")" && pwd)

skip() {
    echo "skipped: needs $1"
    exit 0
}

need() {
    command -v "$1" >/dev/null || skip "$1"
}

# debian PACKAGE…: unpacks packages of Debian into the folder `tree`, without installing them.
debian() {
    apt-get download -q "$@" || { apt-get update -q && apt-get download -q "$@"; }
    local package
    for package in ./*.deb; do
        dpkg-deb -x "$package" tree
    done
    rm ./*.deb
}

# python PACKAGE…: installs packages of PyPI into the folder `site`.
python() {
    python3 -m pip install -q --target site "$@"
}

# source_of NAME==VERSION: unpacks a source package of PyPI, its tests included, into the present folder.
source_of() {
    python3 -m pip download -q --no-deps --no-binary :all: "$1"
    tar xzf ./*.tar.gz --strip 1
}

# npm_install PACKAGE@VERSION…: installs packages of npm, and unpacks the first, its tests included, into `package`.
npm_install() {
    npm install --silent --no-audit --no-fund "$@"
    npm pack --silent "$1"
    tar xzf ./*.tgz
}

# install NAME [COMMAND…]: runs the command, by default `fetch`, in a folder of its own in the cache,
# and goes there. It runs once, and again when it was changed. Scripts that run at the same time wait for
# one another.
install() {
    local name=$1 recipe
    shift
    recipe="$*$(declare -f fetch)"
    mkdir -p "$CACHE"
    exec 9>"$CACHE/$name.lock"
    flock 9
    if [ "$(cat "$CACHE/$name/installed" 2>/dev/null)" != "$recipe" ]; then
        rm -rf "${CACHE:?}/$name"
        mkdir "$CACHE/$name"
        cd "$CACHE/$name" || exit 1
        fetched "${*:-fetch}" ||
            skip "the registry of $name, or what $CACHE/$name/install.log says: $(tail -n 1 install.log)"
        echo "$recipe" >installed
    fi
    flock -u 9
    cd "$CACHE/$name" || exit 1
}

# fetched SCRIPT: runs the script in the present folder, which is empty. Registries fail now and then: it tries again,
# from the beginning, after a pause.
fetched() {
    local pause
    for pause in 0 5 20 60; do
        sleep $pause
        find . -mindepth 1 -delete
        timeout 600 bash -ec "$(declare -f); $1" >install.log 2>&1 9>&- && return 0
    done
    return 1
}

# bounded COMMAND…: a program may run for 60 s; a function bounds itself.
bounded() {
    if declare -F "$1" >/dev/null; then "$@"; else timeout 60 "$@"; fi
}

# check NAME EXPECTED COMMAND…: the output of the command must match the pattern of the shell.
check() {
    local name=$1 expected=$2 output
    shift 2
    output=$(bounded "$@" 2>&1)
    # shellcheck disable=SC2053
    if [[ $output == $expected ]]; then
        echo "pass $name"
    else
        echo "fail $name: ${output//$'\n'/ }"
    fi
}

# from_tap: reads the Test Anything Protocol, in which the runners of npm tell what passed.
from_tap() {
    awk '/^# / && !/^# (tests|pass|fail) / { test = " " substr($0, 3) " -" }
         /^ *(not )?ok / {
             sub(/^ */, "")
             word = sub(/^not /, "") ? "fail" : "pass"
             n = $2
             sub(/^ok [0-9]+ (- )?/, "")
             gsub(/: /, " - ")
             print word " " n test " " $0
         }'
}

# three_tries COMMAND…: prints what the command printed, the last time of three if a test fails each time. For suites
# that race with the server: they count a few milliseconds after a write.
three_tries() {
    for _ in 1 2 3; do
        "$@" >"$WORK/output"
        grep -q '^not ok' "$WORK/output" || break
    done
    cat "$WORK/output"
}
