"""Shows what Object Lock does for a repository: s3-lock.py ICECORE PORT; scripts/s3-acceptance calls it.

The bucket "locked" keeps every version for a day. A host that forgets and prunes everything but the newest snapshot has hidden
the rest, not deleted it: no version can be removed, and taking the delete markers away brings all snapshots back.
"""

import json
import os
import subprocess
import sys
import tempfile

import boto3
from botocore.exceptions import ClientError

ICECORE, PORT = sys.argv[1], sys.argv[2]
KEY, SECRET, BUCKET, PREFIX = "ANACCESSKEY", "asecretkeythatnobodymaysee", "locked", "host"
store = boto3.client(
    "s3", endpoint_url=f"http://127.0.0.1:{PORT}", region_name="us-east-1", aws_access_key_id=KEY, aws_secret_access_key=SECRET
)


def versions() -> tuple[list, list]:
    """All versions below the prefix, and all delete markers."""
    found, markers = [], []
    for page in store.get_paginator("list_object_versions").paginate(Bucket=BUCKET, Prefix=PREFIX):
        found += page.get("Versions", [])
        markers += page.get("DeleteMarkers", [])
    return found, markers


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        environment = os.environ | {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{PORT}", "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET, "ICECORE_REPOSITORY": f"s3://{BUCKET}/{PREFIX}", "HOME": scratch,
        }  # fmt: skip

        def icecore(*arguments: str) -> dict:
            command = [ICECORE, "--json", *arguments]
            done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (arguments, done.stdout, done.stderr)
            return json.loads(done.stdout)

        icecore("init")
        stamps = []
        os.mkdir(f"{scratch}/tree")
        for round_ in range(3):
            with open(f"{scratch}/tree/file{round_}", "wb") as file:
                file.write(os.urandom(200_000))
            stamps.append(icecore("backup", "tree")["stamp"])
            os.remove(f"{scratch}/tree/file{round_}")
        packs = {version["Key"] for version in versions()[0] if "/packs/" in version["Key"]}
        icecore("prune", "--keep-last", "1", "--now")
        assert len(icecore("list")["backups"]) == 1
        kept, markers = versions()
        assert packs <= {version["Key"] for version in kept}, "a pack is gone for good"
        assert markers, "nothing was deleted"
        refused = 0
        for version in kept:
            try:
                store.delete_object(Bucket=BUCKET, Key=version["Key"], VersionId=version["VersionId"])
            except ClientError as error:
                assert error.response["Error"]["Code"] == "AccessDenied", error
                refused += 1
        assert refused == len(kept), "a locked version could be deleted"
        for marker in markers:
            if "/doomed/" not in marker["Key"]:
                store.delete_object(Bucket=BUCKET, Key=marker["Key"], VersionId=marker["VersionId"])
        subprocess.run(["rm", "-rf", f"{scratch}/.cache"], check=True)
        assert [backup["stamp"] for backup in icecore("list")["backups"]] == stamps
        icecore("validate", "--all")
        icecore("check", "--read-data")
        print(f"{refused} versions could not be deleted; {len(markers)} delete markers taken away; 3 of 3 snapshots are back, and valid")


main()
