"""Write the passwords of infra/compose.yaml: `python3 infra/write_secrets.py`, once.

Only the folder is closed to others. The files must be readable by the users that the containers
run as, since Compose mounts them as they are.
"""

import json
import secrets
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "secrets"


def contents() -> dict[str, str]:
    """The files by name, with new passwords."""
    database, broker, s3 = (secrets.token_urlsafe(32) for _ in range(3))
    identity = {
        "name": "twofold",
        "credentials": [{"accessKey": "twofold", "secretKey": s3}],
        "actions": ["Admin"],
    }
    return {
        "database_password": database,
        "database_url": f"postgresql://twofold:{database}@postgres:5432/twofold",
        "redis_conf": f"requirepass {broker}\n",
        "broker_url": f"redis://:{broker}@redis:6379/0",
        "s3_server": json.dumps({"identities": [identity]}),
        "s3_credentials": f"[default]\naws_access_key_id = twofold\naws_secret_access_key = {s3}\n",
    }


def main() -> int:
    """Write them where none are; returns the exit status."""
    try:
        FOLDER.mkdir(mode=0o700)
    except FileExistsError:
        # The servers' volumes know the old passwords.
        sys.stderr.write(f"{FOLDER} exists; remove it only together with the volumes.\n")
        return 1
    for name, text in contents().items():
        path = FOLDER / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o444)
    return 0


if __name__ == "__main__":
    sys.exit(main())
