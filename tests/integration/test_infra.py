"""The program that `infra/compose.yaml` carries in itself."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import yaml

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

COMPOSE = Path(__file__).parents[2] / "infra/compose.yaml"


def test_the_buckets_of_the_settings_are_made_once(s3_endpoint: str, s3: "S3Client") -> None:
    service = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]["buckets"]
    results, further = f"results-{uuid4()}", f"further-{uuid4()}"
    environment = os.environ | {
        "TWOFOLD_S3_ENDPOINT_URL": s3_endpoint,
        "TWOFOLD_RESULTS": f"s3://{results}/upscaled",
        "TWOFOLD_UPLOADS": f"s3://{results}/uploads",
        "TWOFOLD_BUCKETS": further,
    }
    assert service["entrypoint"] == ["python", "-c"]

    for _ in range(2):
        subprocess.run([sys.executable, "-c", *service["command"]], env=environment, check=True)

    assert {results, further} <= {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
