"""`python -m tests.real SERVER …`; a new server is added here."""

from __future__ import annotations

import sys

from tests.real import copies, forgejo, influxdb, recovery, tailnet
from tests.real.road import Road, main

ROADS: dict[str, Road] = {
    road.name: road for road in (forgejo.ROAD, influxdb.ROAD, tailnet.ROAD, recovery.ROAD, copies.ROAD)
}

if __name__ == "__main__":
    sys.exit(main(ROADS, sys.argv[1:]))
