{{/* Sources of the environment of Ray's pods: the chart's ConfigMap, then secrets. */}}
{{- define "facscale.ray.envFrom" -}}
envFrom:
  - configMapRef: {name: {{ include "facscale.fullname" . }}-environment}
  {{- with include "facscale.secret.storage" . }}
  - secretRef: {name: {{ . }}}
  {{- end }}
  {{- with include "facscale.secret.tracking" . }}
  - secretRef: {name: {{ . }}}
  {{- end }}
  {{- range .Values.secrets }}
  - secretRef: {name: {{ . }}}
  {{- end }}
{{- end -}}

{{/* Volumes and mounts of a Ray pod: (dict "root" $ "sharedMemory" "2Gi" "scratch" "20Gi"). /dev/shm holds Ray's object store, and counts as memory. */}}
{{- define "facscale.ray.volumes" -}}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ .sharedMemory }}}
- name: tmp
  emptyDir: {sizeLimit: {{ .scratch }}}
- name: home
  emptyDir: {sizeLimit: {{ .scratch }}}
{{- include "facscale.extraVolumes" .root }}
{{- end -}}
{{- define "facscale.ray.mounts" -}}
- {name: shm, mountPath: /dev/shm}
- {name: tmp, mountPath: /tmp}
- {name: home, mountPath: /home/facscale}
{{- include "facscale.extraMounts" .root }}
{{- end -}}

{{/* Resources of a Ray pod, as JSON: CPU and memory, and what a group or the head adds (`extraResources`, `ephemeralStorage`). */}}
{{- define "facscale.ray.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- range $name, $amount := .group.extraResources -}}
{{- $_ := set $resources $name (toString $amount) -}}
{{- end -}}
{{- with .group.ephemeralStorage -}}
{{- $_ := set $resources "ephemeral-storage" . -}}
{{- end -}}
{{- toJson $resources -}}
{{- end -}}

{{/* Size of Ray's object store in bytes, for "4Gi" of /dev/shm: nine tenths, because Ray puts one that does not fit on a slow disk. */}}
{{- define "facscale.ray.objectStore" -}}
{{- mulf (include "facscale.bytes" . | float64) 0.9 | int64 | quote -}}
{{- end -}}

{{/* A quantity in bytes: "4Gi" is 4294967296. */}}
{{- define "facscale.bytes" -}}
{{- $units := dict "m" 0.001 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "" 1 -}}
{{- $unit := regexFind "[A-Za-z]*$" . -}}
{{- mulf (float64 (trimSuffix $unit .)) (get $units $unit) | int64 -}}
{{- end -}}

{{/* Metadata of a Ray pod: (dict "root" $ "component" "ray-head" "lifetime" "standing"). The annotations keep autoscalers from removing the node of a running training to save cost. */}}
{{- define "facscale.ray.podMetadata" -}}
labels:
  {{- include "facscale.podLabels" . | nindent 2 }}
  facscale.dev/lifetime: {{ .lifetime }}
  {{- with .capacity }}
  facscale.dev/capacity: {{ . }}
  {{- end }}
  {{- with .root.Values.serviceAccounts.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
  karpenter.sh/do-not-disrupt: "true"
  {{- with .root.Values.pods.annotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Port and token of a service, in its own cluster alone. */}}
{{- define "facscale.ray.servePort" -}}
{{- if eq .lifetime "service" -}}
- {name: serve, containerPort: 8000}
{{- end -}}
{{- end -}}
{{- define "facscale.ray.serveEnv" -}}
{{- if eq .lifetime "service" -}}
- name: FACSCALE_SERVE_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ include "facscale.secret.serve" .root }}, key: token}
{{- end -}}
{{- end -}}

{{/* What a cluster grows to: CPU=16,GPU=8. A job waits for nodes up to it instead of being refused. */}}
{{- define "facscale.ray.limits" -}}
{{- $cpus := 0 -}}
{{- $gpus := 0 -}}
{{- range .Values.ray.groups -}}
{{- if . -}}
{{- $group := mergeOverwrite (deepCopy $.Values.ray.groupDefaults) . -}}
{{- $cpus = add $cpus (mul (int $group.cpus) (int $group.maxReplicas)) -}}
{{- $gpus = add $gpus (mul (int $group.gpus) (int $group.maxReplicas)) -}}
{{- end -}}
{{- end -}}
CPU={{ $cpus }},GPU={{ $gpus }}
{{- end -}}

{{/* The head. It runs Ray's services and the drivers of jobs, no tasks. */}}
{{- define "facscale.ray.head" -}}
{{- $head := .root.Values.ray.head -}}
serviceType: ClusterIP
rayStartParams:
  dashboard-host: 0.0.0.0
  num-cpus: "0"
  object-store-memory: {{ include "facscale.ray.objectStore" $head.sharedMemory }}
template:
  metadata:
    {{- include "facscale.ray.podMetadata" (merge (dict "component" "ray-head") .) | nindent 4 }}
  spec:
    restartPolicy: Never
    serviceAccountName: {{ include "facscale.fullname" .root }}-head
    automountServiceAccountToken: false
    {{- include "facscale.podSecurity" (dict "user" 10001) | nindent 4 }}
    {{- include "facscale.pullSecrets" .root | nindent 4 }}
    {{- include "facscale.priority" (dict "root" .root "class" "head") | nindent 4 }}
    {{- include "facscale.placement" $head | nindent 4 }}
    containers:
      - name: ray-head
        {{- include "facscale.image" (dict "root" .root "cuda" false) | nindent 8 }}
        securityContext:
          {{- include "facscale.security" . | nindent 10 }}
        env:
          - {name: HOME, value: /home/facscale}
          # dead actors that Ray's head remembers: a job leaves about ten; Ray's own limit is 100,000
          - {name: RAY_maximum_gcs_destroyed_actor_cached_count, value: "1000"}
          {{- if and .autoscale (eq .lifetime "standing") }}
          - {name: FACSCALE_CLUSTER_LIMITS, value: {{ include "facscale.ray.limits" .root | quote }}}
          {{- end }}
          {{- include "facscale.ray.serveEnv" . | nindent 10 }}
          {{- include "facscale.extraEnv" .root | nindent 10 }}
        {{- include "facscale.ray.envFrom" .root | nindent 8 }}
        ports:
          {{- include "facscale.ray.servePort" . | nindent 10 }}
          - {name: gcs-server, containerPort: 6379}
          - {name: dashboard, containerPort: 8265}
          - {name: metrics, containerPort: 8080}
          - {name: as-metrics, containerPort: 44217}
          - {name: dash-metrics, containerPort: 44227}
        {{- include "facscale.resources" (include "facscale.ray.resources" (dict "resources" $head.resources "group" $head) | fromJson) | nindent 8 }}
        {{- include "facscale.probes" (dict "path" "/api/healthz" "port" 52365 "start" 60 "failures" 30) | nindent 8 }}
        volumeMounts:
          {{- include "facscale.ray.mounts" . | nindent 10 }}
    volumes:
      {{- include "facscale.ray.volumes" (merge (pick . "root") $head) | nindent 6 }}
      # the autoscaler's token for the Kubernetes API, mounted into its container only: the code of a job has no access to it
      - name: kubernetes
        projected:
          defaultMode: 0440
          sources:
            - serviceAccountToken: {path: token, expirationSeconds: 3600}
            - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
            - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- end -}}

{{/* A worker group: (dict "root" $ "name" "gpu" "group" {...} "lifetime" "job" "live" {"gpu": 2}). `live` has the numbers of workers that
     an autoscaler has set, within the group's bounds. */}}
{{- define "facscale.ray.group" -}}
{{- $group := mergeOverwrite (deepCopy .root.Values.ray.groupDefaults) .group -}}
{{- $gpus := int $group.gpus -}}
{{- $resources := dict "cpu" (toString $group.cpus) "memory" $group.memory -}}
{{- $tolerations := default list $group.tolerations -}}
{{- if $gpus -}}
{{- $_ := set $resources "nvidia.com/gpu" (toString $gpus) -}}
{{- $tolerations = append $tolerations (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule") -}}
{{- end -}}
groupName: {{ .name }}
{{- $replicas := int (default $group.minReplicas $group.replicas) -}}
{{- if hasKey (default dict .live) .name -}}
{{- $replicas = max (int $group.minReplicas) (min (int $group.maxReplicas) (int (get .live .name))) -}}
{{- end }}
replicas: {{ $replicas }}
minReplicas: {{ int $group.minReplicas }}
maxReplicas: {{ int $group.maxReplicas }}
{{- with $group.idleTimeoutSeconds }}
idleTimeoutSeconds: {{ int . }}
{{- end }}
rayStartParams:
  object-store-memory: {{ include "facscale.ray.objectStore" $group.sharedMemory }}
template:
  metadata:
    {{- include "facscale.ray.podMetadata" (dict "root" .root "component" "ray-worker" "lifetime" .lifetime "capacity" (ternary "spot" "on-demand" (default false $group.spot))) | nindent 4 }}
  spec:
    restartPolicy: Never
    serviceAccountName: {{ include "facscale.fullname" .root }}-worker
    automountServiceAccountToken: false
    {{- include "facscale.podSecurity" (dict "user" 10001) | nindent 4 }}
    {{- include "facscale.pullSecrets" .root | nindent 4 }}
    {{- include "facscale.priority" (dict "root" .root "class" "worker") | nindent 4 }}
    {{- with $group.runtimeClassName }}
    runtimeClassName: {{ . }}
    {{- end }}
    {{- include "facscale.placement" (dict "nodeSelector" $group.nodeSelector "tolerations" $tolerations "affinity" $group.affinity) | nindent 4 }}
    containers:
      - name: ray-worker
        {{- include "facscale.image" (dict "root" .root "cuda" (gt $gpus 0)) | nindent 8 }}
        securityContext:
          {{- include "facscale.security" . | nindent 10 }}
        env:
          - {name: HOME, value: /home/facscale}
          {{- include "facscale.ray.serveEnv" . | nindent 10 }}
          {{- include "facscale.extraEnv" .root | nindent 10 }}
          {{- range $name, $value := $group.environment }}
          - {name: {{ $name }}, value: {{ $value | quote }}}
          {{- end }}
        {{- include "facscale.ray.envFrom" .root | nindent 8 }}
        ports:
          {{- include "facscale.ray.servePort" . | nindent 10 }}
          - {name: metrics, containerPort: 8080}
        {{- include "facscale.resources" (include "facscale.ray.resources" (dict "resources" $resources "group" $group) | fromJson) | nindent 8 }}
        {{- /* A worker of a service is ready when its proxy has replicas to send requests to. */}}
        {{- $ready := ternary (dict "readyPath" "/-/healthz" "readyPort" 8000) dict (eq .lifetime "service") }}
        {{- include "facscale.probes" (merge (dict "path" "/api/healthz" "port" 52365 "start" 60 "failures" 30) $ready) | nindent 8 }}
        volumeMounts:
          {{- include "facscale.ray.mounts" . | nindent 10 }}
    volumes:
      {{- include "facscale.ray.volumes" (merge (pick . "root") $group) | nindent 6 }}
{{- end -}}

{{/* A Ray cluster, permanent, of one job or of a service: (dict "root" $ "lifetime" "standing" "autoscale" true "groups" {...}).
     `groups` are those of the values' ray.groups where it has none. */}}
{{- define "facscale.ray.spec" -}}
{{- $cluster := . -}}
{{- $autoscaler := .root.Values.ray.autoscaler -}}
{{- $live := dict -}}
{{- if and .autoscale (eq .lifetime "standing") -}}
{{- /* An upgrade must not undo what the autoscaler has done since the last one. */ -}}
{{- $existing := lookup "ray.io/v1" "RayCluster" .root.Release.Namespace (include "facscale.fullname" .root) -}}
{{- range dig "spec" "workerGroupSpecs" list $existing -}}
{{- $_ := set $live .groupName (int .replicas) -}}
{{- end -}}
{{- end -}}
rayVersion: {{ .root.Values.ray.version | quote }}
authOptions:
  mode: token
  secretName: {{ include "facscale.secret.token" .root }}
enableInTreeAutoscaling: {{ .autoscale }}
{{- if .autoscale }}
autoscalerOptions:
  version: v2
  upscalingMode: {{ $autoscaler.upscalingMode }}
  idleTimeoutSeconds: {{ int $autoscaler.idleTimeoutSeconds }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  {{- include "facscale.resources" $autoscaler.resources | nindent 2 }}
  securityContext:
    {{- include "facscale.security" . | nindent 4 }}
  env:
    - {name: HOME, value: /tmp}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: kubernetes, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}
headGroupSpec:
  {{- include "facscale.ray.head" (pick . "root" "lifetime" "autoscale") | nindent 2 }}
workerGroupSpecs:
  {{- range $name, $group := (default .root.Values.ray.groups .groups) }}
  {{- if $group }}
  - {{ include "facscale.ray.group" (dict "root" $cluster.root "name" $name "group" $group "lifetime" $cluster.lifetime "live" $live) | indent 4 | trim }}
  {{- end }}
  {{- end }}
{{- end -}}
