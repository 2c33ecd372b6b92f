"""The whole answer for a model on a described cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from deepseek_lab.base.scaling import Checked, ScalingPlan, ScalingPoint, WayOutcome
from deepseek_lab.distributed.scaling.network import Link, Network, all_reduce
from deepseek_lab.distributed.scaling.predict import Compute, Setting, buckets_of, predict
from deepseek_lab.distributed.scaling.step import Host, Times
from deepseek_lab.distributed.scaling.ways import WAYS, Arithmetic, Bucket, Stages, Way
from deepseek_lab.distributed.worker import low_rank

LAUNCH_S = {"inside": 5e-6, "between": 20e-6}
"""What a message costs beside its bytes: over links of a node, and through a network card."""
NODE_SIZE = 8
LARGEST = 1024
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Equal devices on equal nodes. Rates in bytes a second."""

    num_ranks: int
    device: str
    memory_bytes: int
    memory_bandwidth: float
    flops: float
    inside_bandwidth: float
    between_bandwidth: float
    node_size: int = NODE_SIZE

    def network(self, num_ranks: int) -> Network:
        """The same with another number of ranks."""
        inside = Link(self.inside_bandwidth, LAUNCH_S["inside"])
        between = Link(self.between_bandwidth, LAUNCH_S["between"])
        return Network(num_ranks, self.node_size, inside, between)

    @property
    def arithmetic(self) -> Arithmetic:
        """Encoding as one pass over memory a stage: float32 and codes, read and written."""
        value = 1 / self.memory_bandwidth
        stages = {
            "bf16": Stages(6 * value, 4 * value, 6 * value),
            # Errors are read and written too, where values are encoded.
            "int8": Stages(13 * value, 5 * value, 5 * value),
        }
        # A product with a thin matrix reads the large one once.
        thin = 4 * value / (2 * low_rank.RANK)
        return Arithmetic(stages, 2 * value, max(1 / self.flops, thin))

    def setting(self, num_ranks: int) -> Setting:
        """Where a step on so many ranks runs."""
        return Setting(self.network(num_ranks), Host(), self.arithmetic)


def plan(
    shapes: Sequence[Shape],
    compute: Compute,
    cluster: Cluster,
    *,
    model: str = "model",
    class_name: str = "",
    inputs: str = "",
    assumptions: Sequence[str] = (),
    checked: Checked | None = None,
    ways: Sequence[Way] = WAYS,
) -> ScalingPlan:
    """What each way of exchanging gradients brings, on the cluster and on 2 to 1024 of its devices.

    Args:
        shapes: Of the float32 gradients, in the model's order.
        compute: A step of one device.
        cluster: Devices and links.
        model: What the answer calls it.
        class_name: The model's class.
        inputs: What a step of one device takes, in words.
        assumptions: Further sentences on where numbers come from.
        checked: How well predictions matched what was measured.
        ways: Those that are compared.
    """
    num_values = Bucket(tuple(shapes)).num_values
    buckets = [Bucket(tuple(shapes[at] for at in positions)) for positions in buckets_of(shapes)]
    network = cluster.network(cluster.num_ranks)
    outcomes = []
    for way in ways:
        times = _times(shapes, compute, cluster, way, cluster.num_ranks)
        between = network.layered and bool(way.layered)
        kept = num_values // (network.num_local if between else 1) if way.error_feedback else 0
        kept += num_values if way.every > 1 else 0  # where all ranks were together
        outcomes.append(
            WayOutcome(
                name=way.name,
                is_exact=way.is_exact,
                typed=way.layered if between else way.typed,
                sent_bytes=round(_sent(way, buckets, network)),
                kept_bytes=4 * kept if network.num_ranks > 1 else 0,
                step_s=times.step_s,
                waiting_share=times.waiting_share,
                efficiency=compute.total_s / times.step_s,
            )
        )
    held = {
        "parameters": 4 * num_values,
        "gradients": 4 * num_values,
        "buckets": 4 * num_values if cluster.num_ranks > 1 else 0,
        "optimizer states (AdamW)": 8 * num_values,
    }
    return ScalingPlan(
        model=model,
        class_name=class_name,
        num_parameters=num_values,
        devices=f"{cluster.num_ranks} x {cluster.device}",
        num_ranks=cluster.num_ranks,
        network=_words(network),
        inputs=inputs,
        single_s=compute.total_s,
        held={key: size for key, size in held.items() if size},
        limit_bytes=cluster.memory_bytes,
        num_buckets=len(buckets),
        ways=tuple(sorted(outcomes, key=lambda one: not one.is_exact)),
        curve=tuple(_curve(shapes, compute, cluster, ways)),
        assumptions=(*assumptions, *_assumed(network)),
        checked=checked,
    )


def _times(shapes: Sequence[Shape], compute: Compute, cluster: Cluster, way: Way, num_ranks: int) -> Times:
    return predict(shapes, compute, cluster.setting(num_ranks), way)


def _curve(
    shapes: Sequence[Shape], compute: Compute, cluster: Cluster, ways: Sequence[Way]
) -> list[ScalingPoint]:
    counts, made = {cluster.num_ranks}, 2
    while made <= LARGEST:
        counts.add(made)
        made *= 2
    return [
        ScalingPoint(
            count,
            {way.name: compute.total_s / _times(shapes, compute, cluster, way, count).step_s for way in ways},
        )
        for count in sorted(counts)
    ]


def _sent(way: Way, buckets: Sequence[Bucket], network: Network) -> float:
    """Bytes through a port in a step, one way, on average."""
    if network.num_ranks == 1:
        return 0.0
    return sum(all_reduce(way.sent_bytes(one), network).num_bytes for one in buckets) / way.every


def _words(network: Network) -> str:
    def rate(link: Link) -> str:
        return f"{link.bandwidth * 8 / 1e9:,.4g} Gbit/s"

    if network.num_nodes == 1:
        return f"one node, {rate(network.inside)} a device each way"
    return (
        f"{network.num_nodes} nodes of {network.node_size}, {rate(network.inside)} a device inside, "
        f"{rate(network.between)} a node between, each way"
    )


def _assumed(network: Network) -> list[str]:
    made = [
        "gradients are float32, in buckets of 25 MiB (the last 1 MiB), two at a time, beside the rest of the pass",
        f"a message costs {LAUNCH_S['inside'] * 1e6:.0f} us in a node and {LAUNCH_S['between'] * 1e6:.0f} us between",
        "bytes go over the whole bandwidth: no other traffic, all devices equally fast",
        "encoding takes one pass over a device's memory a stage, as fused kernels would; ours are for CPUs so far",
        "PowerSGD is that of arXiv:1905.13727, local SGD that of arXiv:1805.09767",
        "what is not exact changes what is learned: the time of a step does not say how many are needed",
    ]
    if network.num_nodes > 1:
        made.append(
            "ranks of a node first add up inside in float32, then each exchanges its part with its peers on other "
            "nodes, then parts are handed around; one after the other for each bucket"
        )
    return made
