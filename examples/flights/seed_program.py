"""The first program that anybody runs on RayOnSpark: actors on the cluster say on which machines they are.

From the article that introduced RayOnSpark, unchanged but for what its typesetting lost (spaces, line breaks,
indentation).
"""

import ray


@ray.remote
class TestRay():
    def hostname(self):
        import socket
        return socket.gethostname()

    def ip(self):
        import ray.services as rservices
        return rservices.get_node_ip_address()


def main(slave_num: int) -> None:
    actors = [TestRay.remote() for i in range(0, slave_num)]
    print([ray.get(actor.hostname.remote()) for actor in actors])
    print([ray.get(actor.ip.remote()) for actor in actors])
