{{- define "penstock.name" -}}
{{- if contains "penstock" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-penstock" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "penstock.clusterName" -}}
{{ printf "%s-%s" .Release.Namespace (include "penstock.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "penstock.selector" -}}
app.kubernetes.io/name: penstock-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "penstock.labels" -}}
{{ include "penstock.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "penstock.account" -}}
{{ .Values.serviceAccount.name | default (include "penstock.name" .) }}
{{- end }}

{{- define "penstock.keySecret" -}}
{{ .Values.masterKey.existingSecret | default (printf "%s-key" (include "penstock.name" .)) }}
{{- end }}

{{- define "penstock.metricsSecret" -}}
{{ .Values.externalMetrics.existingSecret | default (printf "%s-metrics" (include "penstock.name" .)) }}
{{- end }}

{{- define "penstock.scalerAddress" -}}
{{ .Values.keda.scalerAddress | default (printf "%s.%s.svc:6000" (include "penstock.name" .) .Release.Namespace) }}
{{- end }}
