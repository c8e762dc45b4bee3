{{/* The RayJob that `facscale submit` starts from; it sets the name, the entrypoint, the groups and the volume with the spec. */}}
{{- define "facscale.rayjob" -}}
{{- $queue := .Values.kueue.jobs -}}
{{- $autoscale := or (not $queue) .Values.kueue.elastic -}}
apiVersion: ray.io/v1
kind: RayJob
metadata:
  name: {{ include "facscale.fullname" . }}-job
  namespace: {{ .Release.Namespace }}
  labels:
    app.kubernetes.io/part-of: facscale
    app.kubernetes.io/instance: {{ .Release.Name }}
    {{- with $queue }}
    kueue.x-k8s.io/queue-name: {{ . }}
    {{- end }}
    {{- with .Values.kueue.priorityClass }}
    kueue.x-k8s.io/priority-class: {{ . }}
    {{- end }}
  {{- if and $queue .Values.kueue.elastic }}
  annotations:
    kueue.x-k8s.io/elastic-job: "true"
  {{- end }}
spec:
  entrypoint: facscale run /etc/facscale/job/job.yaml
  submissionMode: K8sJobMode
  shutdownAfterJobFinishes: true
  ttlSecondsAfterFinished: {{ int .Values.jobs.ttlSecondsAfterFinished }}
  backoffLimit: {{ int .Values.jobs.backoffLimit }}
  {{- with .Values.jobs.activeDeadlineSeconds }}
  activeDeadlineSeconds: {{ int . }}
  {{- end }}
  {{- with .Values.jobs.preRunningDeadlineSeconds }}
  preRunningDeadlineSeconds: {{ int . }}
  {{- end }}
  submitterConfig:
    backoffLimit: {{ int .Values.jobs.submitter.backoffLimit }}
  submitterPodTemplate:
    metadata:
      labels:
        {{- include "facscale.podLabels" (dict "root" . "component" "ray-submitter") | nindent 8 }}
      {{- include "facscale.extraAnnotations" . | nindent 6 }}
    spec:
      restartPolicy: Never
      automountServiceAccountToken: false
      {{- include "facscale.podSecurity" (dict "user" 10001) | nindent 6 }}
      {{- include "facscale.pullSecrets" . | nindent 6 }}
      {{- include "facscale.priority" (dict "root" . "class" "head") | nindent 6 }}
      {{- include "facscale.placement" .Values.pods | nindent 6 }}
      containers:
        - name: ray-job-submitter
          {{- include "facscale.image" (dict "root" . "cuda" false) | nindent 10 }}
          securityContext:
            {{- include "facscale.security" . | nindent 12 }}
          env:
            - {name: HOME, value: /tmp}
            {{- include "facscale.extraEnv" . | nindent 12 }}
          {{- include "facscale.resources" .Values.jobs.submitter.resources | nindent 10 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            {{- include "facscale.extraMounts" . | nindent 12 }}
      volumes:
        - name: tmp
          emptyDir: {sizeLimit: 1Gi}
        {{- include "facscale.extraVolumes" . | nindent 8 }}
  rayClusterSpec:
    {{- include "facscale.ray.spec" (dict "root" . "lifetime" "job" "autoscale" $autoscale) | nindent 4 }}
{{- end -}}
