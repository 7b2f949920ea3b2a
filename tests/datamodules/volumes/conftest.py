"""An object store of this machine that holds a cohort's volume set."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from datamodules.volumes.shards import VolumeSet

Remote = tuple[Path, str]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    moto_server = pytest.importorskip("moto.server", reason="moto is not installed: no object store to test against")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def bucket(endpoint: str, tiny_root: Path) -> Any:
    """A bucket that holds the volume set's folder as it is."""
    keys = {"aws_access_key_id": "tester", "aws_secret_access_key": "not-a-secret", "region_name": "us-east-1"}
    bucket = boto3.resource("s3", endpoint_url=endpoint, **keys).create_bucket(Bucket="cohorts")
    folder = VolumeSet.find(tiny_root).folder
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".npz":
            bucket.upload_file(str(path), f"tiny/volumes/{folder.name}/{path.relative_to(folder)}")
    return bucket


@pytest.fixture
def remote(tiny_root: Path, tmp_path: Path, bucket: Any, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """A cohort without shards, where they are instead, and the environment that a user sets."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_CONFIG_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    root = Path(shutil.copytree(tiny_root, tmp_path / "tiny", ignore=shutil.ignore_patterns("shards", ".build")))
    return root, f"s3://cohorts/tiny/volumes/{VolumeSet.find(tiny_root).folder.name}"
