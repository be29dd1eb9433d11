#!/usr/bin/env bash
# Fly in a real window on a virtual screen, with real keys, and print the program's own figures at the end.
#
#     benchmarks/window.sh photo.png
#
# Needs Xvfb and xdotool. W is held for 15 s, D for the last 3 of them, then the camera turns for 2 s.
set -euo pipefail
read -r screen < <(
    Xvfb -displayfd 3 -screen 0 1600x900x24 -nolisten tcp 3>&1 >/dev/null 2>&1 &
    echo "$!" >"${TMPDIR:-/tmp}/window-bench.pid"
)
trap 'kill "$(cat "${TMPDIR:-/tmp}/window-bench.pid")"' EXIT
export DISPLAY=":$screen"
explorer fly "$@" &
flight=$!
sleep 6
xdotool mousemove 640 400 keydown w sleep 12 keydown d sleep 3 keyup d keydown Right sleep 2 keyup Right sleep 5 keyup w
ps -o rss=,args= --ppid "$flight" -p "$flight" | awk '{printf "%.0f MiB  %s %s\n", $1 / 1024, $2, $3}'
kill -INT "$flight"
wait "$flight" || true
