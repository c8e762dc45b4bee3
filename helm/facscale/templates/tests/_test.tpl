{{/* A pod of `helm test` that runs a script of probes/: (dict "root" $ "name" "mlflow" "env" "<yaml list>" "secrets" (list "name")). */}}
{{- define "facscale.test" -}}
apiVersion: v1
kind: Pod
metadata:
  {{- include "facscale.metadata" (dict "root" .root "component" "test" "suffix" (printf "-test-%s" .name)) | nindent 2 }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
    {{- with .root.Values.pods.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  restartPolicy: Never
  {{- with .account }}
  serviceAccountName: {{ . }}
  {{- end }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- include "facscale.podSecurity" (dict "user" 10001) | nindent 2 }}
  {{- include "facscale.pullSecrets" .root | nindent 2 }}
  {{- include "facscale.placement" .root.Values.pods | nindent 2 }}
  containers:
    - name: test
      {{- include "facscale.image" (dict "root" .root "cuda" false) | nindent 6 }}
      securityContext:
        {{- include "facscale.security" . | nindent 8 }}
      command: [python, -c]
      args:
        - |
          {{- .root.Files.Get (printf "probes/%s.py" .name) | nindent 10 }}
      env:
        - {name: HOME, value: /tmp}
        {{- .env | nindent 8 }}
        {{- include "facscale.extraEnv" .root | nindent 8 }}
      {{- with .secrets }}
      envFrom:
        {{- range . }}
        - secretRef: {name: {{ . }}}
        {{- end }}
      {{- end }}
      {{- include "facscale.resources" (dict "cpu" "200m" "memory" "512Mi") | nindent 6 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        {{- include "facscale.extraMounts" .root | nindent 8 }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: 64Mi}
    {{- include "facscale.extraVolumes" .root | nindent 4 }}
{{- end -}}
