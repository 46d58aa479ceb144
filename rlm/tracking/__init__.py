"""MLflow as a view of the store: one experiment per table, one run per stage.

The folders are the truth. What is to be shown is ordered on disk (`spool/`), and a background thread delivers the
orders; one that cannot be delivered stays and is tried again, by the next `Tracker` if need be. An order is a file
that only `Tracker.deliver` writes; how far its delivery came is a second file that only the deliverer writes, under a
lock, so that two processes never log the same thing twice and nobody waits for a slow server.
"""

from rlm.tracking.server import serve
from rlm.tracking.tracker import SHARED, Tracker, run_tags, tracking_uri

__all__ = ["SHARED", "Tracker", "run_tags", "serve", "tracking_uri"]
