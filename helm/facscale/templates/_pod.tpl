{{/* Security context of a pod for pod security "restricted". `user` is that of the image: (dict "user" 10001). */}}
{{- define "facscale.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user }}
  runAsGroup: {{ .user }}
  fsGroup: {{ .user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* The same for a container. It can only write to volumes. */}}
{{- define "facscale.security" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Image and pull policy of a container with our image: (dict "root" $ "cuda" false). */}}
{{- define "facscale.image" -}}
{{- $image := .root.Values.image -}}
{{- $tag := default .root.Chart.AppVersion $image.tag -}}
{{- $tag = ternary (default (printf "%s-cuda" $tag) $image.cudaTag) $tag .cuda -}}
{{- $digest := ternary $image.cudaDigest $image.digest .cuda -}}
image: {{ ternary (printf "%s@%s" $image.repository $digest) (printf "%s:%s" $image.repository $tag) (ne $digest "") | quote }}
imagePullPolicy: {{ $image.pullPolicy }}
{{- end -}}

{{- define "facscale.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Requests equal limits, so that a running pod is not killed because another pod on its node needs more memory. */}}
{{- define "facscale.resources" -}}
resources:
  requests: {{ toJson . }}
  limits: {{ toJson . }}
{{- end -}}

{{/* Where a pod may run: a mapping with nodeSelector, tolerations, affinity. */}}
{{- define "facscale.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with .affinity }}
affinity: {{ toJson . }}
{{- end }}
{{- end -}}

{{/* Priority class of a pod, an existing one or this chart's: (dict "root" $ "class" "head"). */}}
{{- define "facscale.priority" -}}
{{- $existing := get .root.Values.priorityClasses.existing .class -}}
{{- if $existing }}
priorityClassName: {{ $existing }}
{{- else if .root.Values.priorityClasses.create }}
priorityClassName: {{ include "facscale.fullname" .root }}-{{ .class }}
{{- end }}
{{- end -}}

{{/* What `pods` adds to every pod that runs our image: annotations, variables, volumes and their mounts. */}}
{{- define "facscale.extraAnnotations" -}}
{{- with .Values.pods.annotations }}
annotations: {{ toJson . }}
{{- end }}
{{- end -}}
{{- define "facscale.extraEnv" -}}
{{- range $name, $value := .Values.pods.environment }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end -}}
{{- define "facscale.extraVolumes" -}}
{{- with .Values.pods.volumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
{{- define "facscale.extraMounts" -}}
{{- with .Values.pods.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The same request as startup, readiness and liveness probe: (dict "path" "/health" "port" "http" "start" 60). The
     startup probe restarts the container after `start` failures, the liveness probe after `failures` (default 6).
     `readyPath` and `readyPort`: another request as readiness probe. */}}
{{- define "facscale.probes" -}}
startupProbe:
  httpGet: {path: {{ .path }}, port: {{ .port }}}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ .start }}
readinessProbe:
  httpGet: {path: {{ default .path .readyPath }}, port: {{ default .port .readyPort }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
livenessProbe:
  httpGet: {path: {{ .path }}, port: {{ .port }}}
  periodSeconds: 20
  timeoutSeconds: 10
  failureThreshold: {{ default 6 .failures }}
{{- end -}}

{{/* Region and address of the storage, for pods that read or write there. */}}
{{- define "facscale.storageEnv" -}}
- {name: AWS_REGION, value: {{ .Values.storage.region | quote }}}
{{- with include "facscale.url.storage" . }}
- {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
- {name: MLFLOW_S3_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- end -}}
