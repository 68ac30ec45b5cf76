"""`make demo`: a real YARN and HDFS in this machine, and the flights on it."""

from __future__ import annotations

import pathlib
import sys
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))

import flights  # noqa: E402

from support.minicluster import MiniCluster  # noqa: E402


def main() -> None:
    """Starts the cluster, runs the program, ends the cluster."""
    start = time.monotonic()
    print("== YARN (ResourceManager, two NodeManagers) and HDFS in one JVM", flush=True)
    with MiniCluster() as cluster:
        print(f"   {time.monotonic() - start:.1f} s; configuration in {cluster.conf_dir}", flush=True)
        flights.main(["--master", "yarn", "--hadoop-conf", cluster.conf_dir, *sys.argv[1:]])
    print(f"\nThe whole demo took {time.monotonic() - start:.0f} s.")


if __name__ == "__main__":
    main()
