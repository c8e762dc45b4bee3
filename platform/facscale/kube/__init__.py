"""Jobs on clusters elsewhere: Kubernetes with KubeRay, and Ray clusters by their address. No other room knows Kubernetes."""

from facscale.kube.api import Api, KubeError
from facscale.kube.clusters import KubePlace, Place, RayPlace, kube_place, places, ray_place
from facscale.kube.host import Host, Standing, State
from facscale.kube.hosts import everywhere, host

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
