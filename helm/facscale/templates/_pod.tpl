{{/* Pod security "restricted", of the pod. `user` is the image's: (dict "user" 10001). */}}
{{- define "facscale.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user }}
  runAsGroup: {{ .user }}
  fsGroup: {{ .user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* The same of a container. What it writes lies in volumes. */}}
{{- define "facscale.security" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Image and pull policy of a container of ours: (dict "root" $ "cuda" false). */}}
{{- define "facscale.image" -}}
{{- $image := .root.Values.image -}}
{{- $tag := default .root.Chart.AppVersion $image.tag -}}
image: {{ printf "%s:%s" $image.repository (ternary (default (printf "%s-cuda" $tag) $image.cudaTag) $tag .cuda) | quote }}
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

{{/* Memory is asked for as it is limited: a pod that was placed is not ended because its neighbour grew. */}}
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

{{/* A class of pods by importance, if this chart makes them: (dict "root" $ "class" "head"). */}}
{{- define "facscale.priority" -}}
{{- if .root.Values.priorityClasses.create }}
priorityClassName: {{ include "facscale.fullname" .root }}-{{ .class }}
{{- end }}
{{- end -}}

{{/* Pods that begin at once are not pods that are ready: the same probe three ways, (dict "path" "/health" "port" "http" "start" 60). */}}
{{- define "facscale.probes" -}}
startupProbe:
  httpGet: {path: {{ .path }}, port: {{ .port }}}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ .start }}
readinessProbe:
  httpGet: {path: {{ .path }}, port: {{ .port }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
livenessProbe:
  httpGet: {path: {{ .path }}, port: {{ .port }}}
  periodSeconds: 20
  timeoutSeconds: 10
  failureThreshold: {{ default 6 .patience }}
{{- end -}}

{{/* Keys of storage and its place, for whoever reads or writes there. */}}
{{- define "facscale.storageEnv" -}}
- {name: AWS_REGION, value: {{ .Values.storage.region | quote }}}
{{- with include "facscale.url.storage" . }}
- {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
- {name: MLFLOW_S3_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- end -}}
