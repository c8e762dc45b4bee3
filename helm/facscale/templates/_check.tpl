{{/* Checks that a schema cannot express: values that contradict each other. Each error message says what to do. */}}
{{- define "facscale.check" -}}
{{- $v := .Values -}}
{{- $name := include "facscale.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "objects would be called %q, and a service must begin with a letter and have only small letters, digits and hyphens: choose another release name, or set fullnameOverride" $name) -}}
{{- end -}}
{{- if semverCompare "<2.52.0" $v.ray.version -}}
{{- fail (printf "ray.version %s has no token authentication: use 2.52.0 or newer" $v.ray.version) -}}
{{- end -}}
{{- include "facscale.check.sharedMemory" (dict "path" "ray.head" "sharedMemory" $v.ray.head.sharedMemory "memory" $v.ray.head.resources.memory) -}}
{{- if and (not $v.mlflow.enabled) (not $v.tracking.uri) -}}
{{- fail "no MLflow: set mlflow.enabled=true for a server here, or tracking.uri to the address of another" -}}
{{- end -}}
{{- if and $v.mlflow.enabled $v.tracking.uri -}}
{{- fail "two MLflow servers: tracking.uri names another server, so set mlflow.enabled=false, or leave tracking.uri empty" -}}
{{- end -}}
{{- if and $v.mlflow.enabled $v.mlflow.auth.existingSecret (not $v.tracking.existingSecret) -}}
{{- fail "jobs cannot log in: mlflow.auth.existingSecret names your own secret, so tracking.existingSecret must name a secret with the keys MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" -}}
{{- end -}}
{{- if and $v.mlflow.enabled (not $v.postgres.enabled) (or (not $v.mlflow.database.host) (not $v.mlflow.database.existingSecret)) -}}
{{- fail "MLflow has no database: set mlflow.database.host and mlflow.database.existingSecret (keys username, password), or postgres.enabled=true for a small one for trials" -}}
{{- end -}}
{{- if and $v.postgres.enabled $v.mlflow.database.host -}}
{{- fail "two databases: mlflow.database.host names your own, so set postgres.enabled=false, or leave it empty" -}}
{{- end -}}
{{- if and $v.postgres.enabled (not $v.mlflow.enabled) -}}
{{- fail "postgres.enabled=true serves MLflow alone, and mlflow.enabled is false: set postgres.enabled=false" -}}
{{- end -}}
{{- if and $v.objectStore.enabled (or $v.storage.endpoint $v.storage.existingSecret) -}}
{{- fail "two object stores: storage.endpoint or storage.existingSecret name your own, so set objectStore.enabled=false, or leave both empty" -}}
{{- end -}}
{{- if and $v.mlflow.ingress.enabled (not $v.mlflow.ingress.host) -}}
{{- fail "mlflow.ingress.enabled=true needs mlflow.ingress.host" -}}
{{- end -}}
{{- if and $v.kueue.elastic (not $v.kueue.jobs) (not $v.kueue.cluster) -}}
{{- fail "kueue.elastic=true without a queue: name one in kueue.jobs or kueue.cluster" -}}
{{- end -}}
{{- if and $v.serve.enabled (not $v.serve.model) -}}
{{- fail "serve.enabled=true needs serve.model: the detector to serve, such as models:/facscale-bp4d-clp@best" -}}
{{- end -}}
{{- range $part := list "fronts" "networks" -}}
{{- $replicas := get $v.serve $part -}}
{{- if gt (int $replicas.min) (int $replicas.max) -}}
{{- fail (printf "serve.%s: min %d is above max %d" $part (int $replicas.min) (int $replicas.max)) -}}
{{- end -}}
{{- end -}}
{{- range $name, $group := (merge (dict) $v.ray.groups (ternary $v.serve.groups dict $v.serve.enabled)) -}}
{{- if $group -}}
{{- $merged := mergeOverwrite (deepCopy $v.ray.groupDefaults) $group -}}
{{- if gt (int $merged.minReplicas) (int $merged.maxReplicas) -}}
{{- fail (printf "ray.groups.%s: minReplicas %d is above maxReplicas %d" $name (int $merged.minReplicas) (int $merged.maxReplicas)) -}}
{{- end -}}
{{- include "facscale.check.sharedMemory" (dict "path" (printf "ray.groups.%s" $name) "sharedMemory" $merged.sharedMemory "memory" $merged.memory) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* /dev/shm counts as the pod's memory: (dict "path" "ray.head" "sharedMemory" "2Gi" "memory" "8Gi"). */}}
{{- define "facscale.check.sharedMemory" -}}
{{- if ge (include "facscale.bytes" .sharedMemory | float64) (include "facscale.bytes" .memory | float64) -}}
{{- fail (printf "%s: sharedMemory %s is not below memory %s, of which it is a part" .path .sharedMemory .memory) -}}
{{- end -}}
{{- end -}}
