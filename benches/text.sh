#!/bin/sh
# Bytes of machine code by crate, in a build of tern with symbols: `benches/text.sh PATH-TO-TERN`.
# See README.md in this folder. A generic function counts for the first crate outside of std that its
# name shows, and for std if it shows none.
set -eu
nm --print-size --radix=d --demangle=rust "$1" | awk '
$3 ~ /^[tTwW]$/ {
    name = $0
    sub(/^([^ ]+ ){3}/, "", name)
    crate = "C library, assembler"
    if (name ~ /(gimli|addr2line|rustc_demangle|miniz_oxide)::/) {
        crate = "std: backtraces"
    } else {
        rest = name
        while (match(rest, /[a-z_0-9]+::/)) {
            first = substr(rest, RSTART, RLENGTH - 2)
            if (first ~ /^(tern|wal|ring|rustls|webpki|rustls_pki_types|serde_json|basic_toml|getopts|httparse|mio|crc32fast)$/) {
                crate = first
                break
            }
            crate = "std"
            rest = substr(rest, RSTART + RLENGTH)
        }
        if (crate ~ /^(webpki|rustls_pki_types)$/) crate = "rustls"
    }
    bytes[crate] += $2
    total += $2
}
END {
    for (crate in bytes) printf "%9d %s\n", bytes[crate], crate
    printf "%9d total\n", total
}' | sort -rn
