#!/usr/bin/env python3
"""Holds a lock while it works, with nothing but Python's standard library.

    python3 examples/hold.py jobs/nightly

The three rules that make it safe:

1. The time that is left is counted on a clock that runs while the machine sleeps (CLOCK_BOOTTIME), from
   *before* the request was sent, and 1 % is taken off for clocks that run at different speeds.
2. A renewal names the token: it never creates a grant, so a late one revives nothing.
3. The work asks `held()` before each step, and hands the token to what the lock guards.
"""

import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid

ENDPOINTS = os.environ.get("KEYWARD_ENDPOINTS", "http://127.0.0.1:7420").split(",")
DURATION = 10.0


def now():
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Refused(Exception):
    """Another holds the lock, or the grant is lost."""


def ask(path, body, patience):
    """Sends a write to one node after the other until it is decided. The id makes that safe."""
    body = dict(body, request_id=str(uuid.uuid4()))
    deadline = now() + patience
    while True:
        for endpoint in ENDPOINTS:
            request = urllib.request.Request(
                endpoint + path,
                json.dumps(body).encode(),
                {"content-type": "application/json", "keyward-timeout-ms": "1000"},
            )
            try:
                with urllib.request.urlopen(request, timeout=1.5) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                problem = json.load(error) if "json" in error.headers.get("content-type", "") else {}
                if problem.get("code") in ("forbidden", "bad_request", "unknown_field"):
                    raise Refused(problem.get("detail")) from None
            except OSError:
                pass
            if now() >= deadline:
                raise TimeoutError(f"no node decided within {patience:.1f} s")
        time.sleep(0.1)


class Lock:
    def __init__(self, signature):
        self.owner = {"signature": signature, "signee": os.uname().nodename, "instance": str(uuid.uuid4())}
        self.ended = threading.Event()

    def __enter__(self):
        sent = now()
        body = dict(self.owner, duration_ms=int(DURATION * 1000))
        answer = ask("/v1/lock", body, patience=5)
        self.token = answer["token"]
        self.until = sent + answer["expires_in_ms"] / 1000 * 0.99
        threading.Thread(target=self.renew, daemon=True).start()
        return self

    def held(self):
        return not self.ended.is_set() and now() < self.until

    def renew(self):
        body = dict(self.owner, duration_ms=int(DURATION * 1000), token=self.token)
        while not self.ended.wait(DURATION / 3):
            sent = now()
            try:
                answer = ask("/v1/lock", body, patience=self.until - sent)
                self.until = sent + answer["expires_in_ms"] / 1000 * 0.99
            except Refused:
                self.until = sent
                return
            except TimeoutError:
                return

    def __exit__(self, *_):
        self.ended.set()
        try:
            ask("/v1/unlock", dict(self.owner, token=self.token), patience=5)
        except (Refused, TimeoutError) as error:
            print(f"not released, so it expires by itself: {error}", file=sys.stderr)


def main():
    signature = sys.argv[1] if len(sys.argv) > 1 else "jobs/nightly"
    try:
        with Lock(signature) as lock:
            for step in range(5):
                if not lock.held():
                    sys.exit("the lock is lost: stop at once")
                print(f"step {step} under token {lock.token}", flush=True)
                time.sleep(1)
    except (Refused, TimeoutError) as error:
        sys.exit(f"not acquired: {error}")


if __name__ == "__main__":
    main()
