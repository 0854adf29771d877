#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Puts what `cargo xtask run` prints into docs/demonstration.md. `cargo xtask test` says
# when that is needed.
set -euo pipefail
cd "$(dirname "$0")/.."

printed=$(mktemp)
updated=$(mktemp)
trap 'rm -f "$printed" "$updated"' EXIT
# The log's time stamps differ from run to run. Reads to the end: `cargo xtask run` prints more after the
# kernel's last line, and fails if its reader has gone.
cargo xtask run | tr -d '\r' | sed -nE 's/^\[ *[0-9]+\.[0-9]+\] //; 1,/^lazymmu: exit/p' >"$printed"
awk -v printed="$printed" '
    /^<!-- transcript: cargo xtask run -->$/ {
        print; getline; print
        while ((getline line < printed) > 0) print line
        skipping = 1
        next
    }
    skipping && /^```$/ { skipping = 0 }
    !skipping { print }
' docs/demonstration.md >"$updated"
cp "$updated" docs/demonstration.md
