#!/bin/sh
# Process 1 of the virtual machine. It makes the kernel usable the way a distribution's init
# would, runs one command, hands the results out and powers off. Should it ever end, the kernel
# panics, and the host tells that from a command that failed.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root TERM=dumb LANG=C.UTF-8 PYTHONUNBUFFERED=1

# A static program starts in half the time under emulation.
mount() { /bin/busybox mount "$@"; }

mount -t tmpfs -o nosuid,nodev,mode=755 run /run
# /tmp stays on the root disk: tests make their private areas there, and tmpfs has no quotas.
mkdir -p /dev/pts /dev/shm /dev/mqueue /run/lock /results
mount -t devpts -o nosuid,noexec,gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
# Made at boot by a distribution, so that opening it loads the module; mkfs.btrfs asks for it.
mknod /dev/btrfs-control c 10 234
ln -snf /proc/self/fd /dev/fd
ln -snf fd/0 /dev/stdin
ln -snf fd/1 /dev/stdout
ln -snf fd/2 /dev/stderr
mount -t securityfs securityfs /sys/kernel/security
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf -o mode=700 bpf /sys/fs/bpf

# A distribution's service manager leaves mounts shared, and so do we: code that forgets to make
# its own copy private should be found out here.
mount --make-rshared /

# What a user namespace cannot have loaded on demand; on some kernels several are built in, hence
# quiet. Not btrfs, which spends a second on benchmarks of its own: a mount by root loads it.
modprobe -qa overlay fuse loop zram veth bridge dummy tun macvlan quota_v2 nf_tables \
	nft_chain_nat nft_ct nft_counter nft_fib_inet nft_limit nft_log nft_masq nft_nat nft_reject_inet

mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
read -r controllers </sys/fs/cgroup/cgroup.controllers
for controller in $controllers; do
	echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done

hostname vzpy-vm
ip link set lo up
# shellcheck disable=SC3045 # dash knows it
ulimit -Hn 1048576

# Sets MARK, SHELL_WANTED, CHECKOUT; exports what the host put into the environment.
# shellcheck source=/dev/null
. /vm/settings
export PATH="$CHECKOUT/bin:$PATH"
cd "$CHECKOUT" || echo "init: there is no checkout"

if [ "$SHELL_WANTED" = 1 ]; then
	export TERM=linux
	echo "--- exit or ctrl-d powers off, ctrl-a x at once ---"
	/bin/busybox setsid /bin/busybox cttyhack /bin/bash -i
else
	# The console's driver would make \r\n of every \n.
	stty -opost </dev/console
	# A pipe with a name, not `command | tee`: a daemon the command leaves behind may hold its
	# end of the pipe for ever, and only the command itself is waited for.
	mkfifo /run/vm-output
	tee /results/output.log </run/vm-output >/dev/console &
	tee=$!
	# Whatever is written between the two marks is the command's.
	echo "$MARK begin" >/dev/console
	/bin/busybox setsid /vm/command </dev/null >/run/vm-output 2>&1
	status=$?
	for _ in $(seq 20); do
		kill -0 "$tee" 2>/dev/null || break
		sleep 0.1
	done
	echo "$MARK end" >/dev/console
	stty opost </dev/console
	echo "$status" >/results/status
fi

dmesg >/results/dmesg.log
tar -cf /dev/vdc -C /results .
sync
/bin/busybox poweroff -f
