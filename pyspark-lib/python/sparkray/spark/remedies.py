"""How the nodes that RayContext starts get more of something."""

from sparkray._private.infeasible import Remedies

_EXECUTORS = "more executors (num_executors of init_spark_on_yarn, elsewhere spark.executor.instances)"

REMEDIES = Remedies(
    cpu=(
        "give each executor more cores (executor_cores={amount} of init_spark_on_yarn, elsewhere "
        "spark.executor.cores={amount}; ray_node_cpu_cores of RayContext where it was given)"
    ),
    gpu=(
        "have the tasks that share a GPU take a custom resource of RayContext, because nodes have no GPUs to give "
        "out yet, whatever spark.executor.resource.gpu.amount is"
    ),
    memory="set more memory aside for Ray (extra_executor_memory_for_ray of init_spark_on_yarn)",
    object_store_memory="have larger stores (object_store_memory of RayContext)",
    custom='name it for all nodes (extra_params={{"resources": {{{name!r}: {amount}}}}} of RayContext)',
    labels="choose by the labels that nodes on Spark have: executor_id, container_id, hostname",
    no_cpus=f"wait for the executors (RayContext.nodes() has their state) or ask for {_EXECUTORS}",
)
