"""What a task, actor or driver can ask about itself."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import asyncio
import ipaddress

import pytest

import sparkray
from sparkray.util import address_of_host

pytestmark = pytest.mark.usefixtures("shared")


def facts():
    context = sparkray.get_runtime_context()
    try:
        resources: object = context.get_assigned_resources()
    except (NotImplementedError, AssertionError) as error:
        resources = str(error)
    return {
        "job": context.get_job_id(),
        "node": context.get_node_id(),
        "worker": context.get_worker_id(),
        "task": context.get_task_id(),
        "task_name": context.get_task_name(),
        "actor": context.get_actor_id(),
        "actor_name": context.get_actor_name(),
        "namespace": context.namespace,
        "resources": resources,
    }


@sparkray.remote
def in_task():
    return facts()


@sparkray.remote
class Actor:
    def ask(self):
        return facts()


@sparkray.remote
class AsyncActor:
    async def ask(self):
        await asyncio.sleep(0.01)
        return facts()


def test_in_the_driver(shared):
    driver = facts()
    assert driver["node"] == shared["node_id"]
    assert driver["namespace"] == shared["namespace"]
    assert driver["task"] is None
    assert driver["actor"] is None
    assert "only available when the process is a worker" in driver["resources"]
    assert len(driver["job"]) == 8


def test_in_a_task():
    reference = in_task.options(num_cpus=0.5).remote()
    task, driver = sparkray.get(reference), facts()
    assert task["job"] == driver["job"]
    assert task["node"] == driver["node"]
    assert task["worker"] != driver["worker"]
    assert task["task"] == reference.task_id().hex()
    assert task["task_name"] == "in_task"
    assert task["actor"] is None
    assert "not there yet" in task["resources"]
    assert task["namespace"] == driver["namespace"]


@pytest.mark.parametrize(
    "kind", [Actor, AsyncActor, Actor.options(max_concurrency=3)], ids=["plain", "async", "threads"]
)
def test_in_an_actor(kind):
    actor = kind.options(name="somebody", num_cpus=1).remote()
    reference = actor.ask.remote()
    found = sparkray.get(reference)
    assert found["actor"] == actor._actor_id.hex()
    assert found["actor_name"] == "somebody"
    assert found["task"] == reference.task_id().hex()
    assert found["task_name"].endswith("Actor.ask")
    assert found["namespace"] == facts()["namespace"]
    assert found["resources"].get("CPU") == 1.0
    sparkray.kill(actor)


def test_ids_are_strings_with_the_methods_of_rays_ids(shared):
    context = sparkray.get_runtime_context()
    for ours in (context.job_id, context.node_id, context.worker_id, sparkray.put(1).task_id()):
        assert ours.hex() == ours
        assert ours.binary() == bytes.fromhex(ours)
    assert context.node_id == context.get_node_id()
    actor = Actor.remote()
    assert actor._actor_id.binary() == bytes.fromhex(sparkray.get(actor.ask.remote())["actor"])
    assert context.get_task_function_name() is None
    assert context.get_node_labels() == {"ray.io/node-id": context.get_node_id()}


@pytest.mark.parametrize("name", ["get_resource_ids", "get_accelerator_ids", "gcs_address"])
def test_what_rays_context_has_beside_says_so(name):
    with pytest.raises(NotImplementedError, match=name):
        getattr(sparkray.get_runtime_context(), name)
    with pytest.raises(AttributeError, match="nothing"):
        _ = sparkray.get_runtime_context().nothing


def test_node_ip_address(shared):
    @sparkray.remote
    def address():
        return sparkray.util.get_node_ip_address()

    assert sparkray.get(address.remote()) == shared["node_ip_address"] == sparkray.util.get_node_ip_address()
    ipaddress.ip_address(sparkray.util.get_node_ip_address())


def test_a_host_name_becomes_an_address():
    assert address_of_host("localhost") == "127.0.0.1"
    assert address_of_host("10.0.0.1") == "10.0.0.1"
