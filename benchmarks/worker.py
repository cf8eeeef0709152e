"""A real worker process with a measured upscaler in it, and what that one did all the time.

python -m benchmarks.worker --device timed --size small --marks marks.json
"""

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks.subject import Subject
from benchmarks.timed import TimedUpscaler
from twofold_worker import app


def main() -> int:
    """Work until told to stop, then write the marks; returns the process's exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", required=True)
    parser.add_argument("--size", required=True)
    parser.add_argument("--ahead", type=int, default=0)
    parser.add_argument("--marks", type=Path, required=True)
    options = parser.parse_args()
    subject = Subject(device=options.device, size=options.size)
    upscaler = subject.timed(ahead=options.ahead) if subject.is_timed else subject.upscaler()
    status = app.main([], upscaler=upscaler)
    # Monotonic seconds mean nothing to another process; the database's clock is this machine's.
    since = time.time() - time.monotonic()
    finished = upscaler.finished if isinstance(upscaler, TimedUpscaler) else []
    options.marks.write_text(json.dumps([[at + since, busy, used] for at, busy, used in finished]))
    return status


if __name__ == "__main__":
    sys.exit(main())
