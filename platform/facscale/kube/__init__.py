"""Jobs on clusters elsewhere: Kubernetes with KubeRay, and Ray clusters by their address. No other room knows Kubernetes."""

from facscale.kube.api import Api, KubeError
from facscale.kube.clusters import KubePlace, Place, RayPlace, kube_place, places, ray_place

__all__ = ["Api", "KubeError", "KubePlace", "Place", "RayPlace", "kube_place", "places", "ray_place"]
