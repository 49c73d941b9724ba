#!/bin/sh
# The whole suite: what runs on this machine in as many processes as it has CPUs, and beside it the
# virtual machine, which is emulated and mostly waits for one CPU. Its story is told afterwards.
# A test that waits for a busy machine may fail beside others: the few that failed run once more,
# alone, and that is told. More than TRIED of them are no accident.
# test.sh PYTEST
set -eu
pytest=$1
TRIED=5

story=$(mktemp)
cache=$(mktemp -d)
machine_status=0
"$pytest" tests/vm >"$story" 2>&1 &
machine=$!
trap 'kill $machine 2>/dev/null || true; rm -rf "$story" "$cache"' EXIT
trap 'exit 130' INT TERM

natively() {
	"$pytest" -o "cache_dir=$cache" -m 'not vm' "$@" tests
}

status=0
natively -n logical --dist loadfile || status=$?
tail -n +1 -f --pid=$machine "$story"
wait $machine || machine_status=$?
if [ $status = 1 ] && [ "$(grep -c true "$cache/v/cache/lastfailed")" -le $TRIED ]; then
	echo "what failed beside others, again, alone:"
	status=0
	natively --last-failed --last-failed-no-failures none || status=$?
fi
[ $machine_status = 0 ] || status=$machine_status
exit $status
