"""Uses the client that was generated from the API's description as its user would."""

import json
import sys

from keyward_client import Client
from keyward_client.api.locks import check, list_, lock, unlock
from keyward_client.models import LockBody, Problem, UnlockBody


def expect(what, condition):
    if not condition:
        sys.exit(f"the generated client: {what}")
    print(f"ok: {what}")


client = Client(base_url=sys.argv[1])
mine = LockBody(signature="jobs/nightly", signee="worker-1", duration_ms=30000)
granted = lock.sync(client=client, body=mine, keyward_timeout_ms=5000)
expect("a lock is taken", granted.status == "ok" and granted.token > 0)

theirs = LockBody(signature="jobs/nightly", signee="worker-2")
refused = lock.sync(client=client, body=theirs)
expect("another is refused", isinstance(refused, Problem) and refused.code == "forbidden")
expect("and is told by whom", refused.holders[0].signee == "worker-1")

seen = check.sync(client=client, signature="jobs/nightly")
expect("the record is read", seen.holders[0].token == granted.token)
page = list_.sync(client=client, prefix="jobs/", limit=10)
expect("it is listed", [record.signature for record in page.locks] == ["jobs/nightly"])
absent = check.sync(client=client, signature="jobs/never")
expect("what is not there is not found", isinstance(absent, Problem) and absent.code == "not_found")

wrong = LockBody(signature="", signee="worker-1")
answer = lock.sync_detailed(client=client, body=wrong)
expect("a wrong request is a 400", answer.status_code == 400)

body = UnlockBody(signature="jobs/nightly", signee="worker-1", token=granted.token)
expect("it is released", unlock.sync(client=client, body=body).status == "ok")
expect("once", json.loads(unlock.sync_detailed(client=client, body=body).content) == {"status": "no_lock"})
