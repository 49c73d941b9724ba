#!/bin/sh
# The whole suite: what runs on this machine in as many processes as it has CPUs, and beside it the
# virtual machine, which is emulated and mostly waits for one CPU. Its story is told afterwards.
# test.sh PYTEST
set -eu
pytest=$1

story=$(mktemp)
"$pytest" tests/vm >"$story" 2>&1 &
machine=$!
trap 'kill $machine 2>/dev/null || true; rm -f "$story"' EXIT
trap 'exit 130' INT TERM

status=0
"$pytest" -n logical --dist loadfile -m 'not vm' tests || status=$?
tail -n +1 -f --pid=$machine "$story"
wait $machine || status=$?
exit $status
