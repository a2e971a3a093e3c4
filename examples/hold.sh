#!/usr/bin/env bash
# Holds a lock with curl while it works, and stops when the lock is lost. `keyward run` does this better:
# it ends the command, and all that the command started, before the lock ends.
#
#   examples/hold.sh jobs/nightly
set -euo pipefail
endpoint="${KEYWARD_ENDPOINTS:-http://127.0.0.1:7420}"
endpoint="${endpoint%%,*}"
signature="${1:-jobs/nightly}"
instance="$(cat /proc/sys/kernel/random/uuid)"
duration=10

# Seconds on a clock that runs while the machine sleeps.
now() { cut -d. -f1 /proc/uptime; }

# ask PATH FIELDS: sends a write; prints the answer. Fails if it is refused or not answered.
ask() {
    curl --fail-with-body --silent --max-time 3 "$endpoint$1" -H 'content-type: application/json' -d "{
        \"signature\":\"$signature\",\"signee\":\"$(hostname)\",\"instance\":\"$instance\"$2}"
}

sent=$(now)
answer=$(ask /v1/lock ",\"duration_ms\":${duration}000") || { echo "not acquired: $answer" >&2; exit 1; }
token=$(sed -n 's/.*"token":\([0-9]*\).*/\1/p' <<<"$answer")
# One second early, because this clock has whole seconds.
until=$((sent + duration - 1))
trap 'ask /v1/unlock ",\"token\":$token" >/dev/null || true' EXIT

for step in 1 2 3 4 5 6; do
    [ "$(now)" -lt "$until" ] || { echo "the lock is lost: stopping" >&2; exit 1; }
    echo "step $step under token $token"
    sleep 1
    sent=$(now)
    if ask /v1/lock ",\"duration_ms\":${duration}000,\"token\":$token" >/dev/null; then
        until=$((sent + duration - 1))
    fi
done
