{{/* First part of all names. 40 characters leave room for the longest suffix, and for what the operator appends to a cluster's name. */}}
{{- define "facscale.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels by which selectors match our pods: (dict "root" $ "component" "mlflow"). */}}
{{- define "facscale.selector" -}}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of a pod. They do not change with the chart's version. */}}
{{- define "facscale.podLabels" -}}
{{ include "facscale.selector" . }}
app.kubernetes.io/part-of: facscale
{{- end -}}

{{/* Labels of an object: (dict "root" $ "component" "mlflow"). */}}
{{- define "facscale.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: facscale
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{ include "facscale.podLabels" . }}
{{- end -}}

{{/* Name and labels of an object: (dict "root" $ "component" "mlflow" "suffix" "-mlflow"). */}}
{{- define "facscale.metadata" -}}
name: {{ include "facscale.fullname" .root }}{{ .suffix }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "facscale.labels" . | nindent 2 }}
{{- end -}}

{{/* Names of secrets: that of the values, else that of the secret that this chart generates. */}}
{{- define "facscale.secret.token" -}}
{{- default (printf "%s-ray-token" (include "facscale.fullname" .)) .Values.ray.auth.existingSecret -}}
{{- end -}}
{{- define "facscale.secret.mlflow" -}}
{{- default (printf "%s-mlflow" (include "facscale.fullname" .)) .Values.mlflow.auth.existingSecret -}}
{{- end -}}
{{- define "facscale.secret.database" -}}
{{- default (printf "%s-postgres" (include "facscale.fullname" .)) .Values.mlflow.database.existingSecret -}}
{{- end -}}

{{/* The secret with the token that clients of the served detector send. */}}
{{- define "facscale.secret.serve" -}}
{{- default (printf "%s-serve" (include "facscale.fullname" .)) .Values.serve.existingSecret -}}
{{- end -}}

{{/* The secret with the keys of the storage; empty if pods authenticate with their service account. */}}
{{- define "facscale.secret.storage" -}}
{{- if .Values.objectStore.enabled -}}{{ include "facscale.fullname" . }}-object-store{{- else -}}{{ .Values.storage.existingSecret }}{{- end -}}
{{- end -}}

{{/* The secret with which MLflow reads and writes artifacts; that of the storage, unless the server has an identity of its own. */}}
{{- define "facscale.secret.artifacts" -}}
{{- default (include "facscale.secret.storage" .) .Values.mlflow.artifactsSecret -}}
{{- end -}}

{{/* The secret with which jobs log in to MLflow; empty for a server without logins. */}}
{{- define "facscale.secret.tracking" -}}
{{- if .Values.tracking.existingSecret -}}
{{ .Values.tracking.existingSecret }}
{{- else if and .Values.mlflow.enabled (not .Values.mlflow.auth.existingSecret) -}}
{{ include "facscale.fullname" . }}-tracking
{{- end -}}
{{- end -}}

{{/* Addresses of services. */}}
{{- define "facscale.url.tracking" -}}
{{- if .Values.mlflow.enabled -}}http://{{ include "facscale.fullname" . }}-mlflow.{{ .Release.Namespace }}.svc:5000{{- else -}}{{ .Values.tracking.uri }}{{- end -}}
{{- end -}}
{{- define "facscale.url.storage" -}}
{{- if .Values.objectStore.enabled -}}http://{{ include "facscale.fullname" . }}-object-store.{{ .Release.Namespace }}.svc:8333{{- else -}}{{ .Values.storage.endpoint }}{{- end -}}
{{- end -}}
{{- define "facscale.url.dashboard" -}}http://{{ include "facscale.fullname" . }}-head-svc.{{ .Release.Namespace }}.svc:8265{{- end -}}
