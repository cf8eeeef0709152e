"""Write the three rings of a Swift with one device: `FOLDER ACCOUNT CONTAINER OBJECT` (ports).

A process of its own, because importing Swift changes the process that does.
"""

import sys
from pathlib import Path

from swift.common.ring import RingBuilder

_PART_POWER = 3  # eight partitions are enough for one disk


def write(folder: Path, name: str, port: int) -> None:
    """Write `NAME.ring.gz`: one replica, on the device `disk`, served at that port."""
    ring = RingBuilder(_PART_POWER, replicas=1, min_part_hours=0)
    place = {"region": 1, "zone": 1, "ip": "127.0.0.1", "port": port}
    ring.add_dev({"id": 0, "device": "disk", "weight": 1.0, "meta": "", **place})
    ring.rebalance()
    ring.get_ring().save(str(folder / f"{name}.ring.gz"))


if __name__ == "__main__":
    for kind, given in zip(("account", "container", "object"), sys.argv[2:], strict=True):
        write(Path(sys.argv[1]), kind, int(given))
