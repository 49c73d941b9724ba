#!/bin/bash
# The life of one VPS, every command shown before its output. All of it lies in ./demo.run: this
# machine's own /etc/vz and /vz are neither read nor written. Run it again and again.
set -euo pipefail
cd "$(dirname "$0")/.."

[ "$(id -u)" = 0 ] || { echo 'make demo must be run as root' >&2; exit 1; }
export VZ_ETC=$PWD/demo.run/etc VZ_RUN=$PWD/demo.run/run VZDIR=$PWD/demo.run/vz
export PATH=$PWD/bin:$PATH

bold='' plain=''
[ ! -t 1 ] || bold=$'\e[1m' plain=$'\e[0m'

run() {
	echo
	echo "$bold# $*$plain"
	"$@"
}

clear() { # also what an interrupted demo left
	[ ! -e "$VZ_ETC/conf/101.conf" ] || {
		vzctl --quiet stop 101 --fast || true
		vzctl --quiet destroy 101 || true
	}
	vzeventd --stop || true
}
trap clear EXIT
clear

run vz setup
run vzctl create 101
run vzctl start 101
sleep 0.5 # its init starts the services meanwhile
run vzctl exec 101 ps axf
run vzlist
run vzctl exec 101 df
run vzctl exec 101 cat /proc/self/uid_map
run vzctl exec 101 uptime
run vzctl status 101
run vzctl stop 101
run vzctl destroy 101
run vzctl status 101
