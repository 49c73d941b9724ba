#!/bin/sh
# Installs the Debian packages that a purpose needs and the machine has not: need.sh run|test|bench
set -eu

case ${1-} in
run) packages='python3 python3-venv busybox-static iproute2 nftables' ;;
test) packages='mmdebstrap mandoc e2fsprogs xfsprogs cpio kmod zstd xz-utils bash-completion shellcheck
	qemu-system-x86 quota iputils-ping' ;;
bench) packages='crun runc lxc podman fio' ;;
*)
	echo "usage: $0 run|test|bench" >&2
	exit 2
	;;
esac

missing=
for package in $packages; do
	case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true) in
	installed) ;;
	*) missing="$missing $package" ;;
	esac
done
[ -n "$missing" ] || exit 0

echo "installing Debian packages:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # a list of words is meant
apt-get install -qq -y --no-install-recommends $missing </dev/null >/dev/null
