"""Jobs on clusters elsewhere: Kubernetes with KubeRay, and Ray clusters by their address. No other room knows Kubernetes."""

from facscale.cluster.kubernetes.api import Api, KubeError
from facscale.cluster.kubernetes.clusters import KubePlace, Place, RayPlace, kube_place, places, ray_place
from facscale.cluster.kubernetes.host import Host, Standing, State
from facscale.cluster.kubernetes.hosts import everywhere, host

__all__ = [
    "Api",
    "Host",
    "KubeError",
    "KubePlace",
    "Place",
    "RayPlace",
    "Standing",
    "State",
    "everywhere",
    "host",
    "kube_place",
    "places",
    "ray_place",
]
