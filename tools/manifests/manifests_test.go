// Package manifests checks the files in init/kubernetes.
package manifests

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

// Each document is an object of the API: it has no unknown field and no value of the
// wrong type.
func TestManifests(t *testing.T) {
	files, err := filepath.Glob("../../init/kubernetes/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
		for {
			document, err := documents.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			checkObject(t, file, document)
		}
	}
}

func checkObject(t *testing.T, file string, document []byte) {
	t.Helper()
	var kind struct{ APIVersion, Kind string }
	if err := strict.Unmarshal(document, &kind); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	var object any
	switch kind.APIVersion + " " + kind.Kind {
	case "v1 ConfigMap":
		object = new(corev1.ConfigMap)
	case "v1 Service":
		object = new(corev1.Service)
	case "apps/v1 Deployment":
		object = new(appsv1.Deployment)
	case "policy/v1 PodDisruptionBudget":
		object = new(policyv1.PodDisruptionBudget)
	default:
		t.Fatalf("%s: unexpected %+v", file, kind)
	}
	if err := strict.UnmarshalStrict(document, object); err != nil {
		t.Errorf("%s: %s: %v", file, kind.Kind, err)
	}
	if deployment, ok := object.(*appsv1.Deployment); ok {
		checkPod(t, file, &deployment.Spec.Template.Spec)
	}
}

// checkPod checks that each volume and port that a container names exists, and that
// the pod may end in its own time.
func checkPod(t *testing.T, file string, pod *corev1.PodSpec) {
	t.Helper()
	volumes := make(map[string]bool)
	for _, v := range pod.Volumes {
		volumes[v.Name] = true
	}
	for i := range pod.Containers {
		c := &pod.Containers[i]
		ports := make(map[string]bool)
		for _, p := range c.Ports {
			ports[p.Name] = true
		}
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] {
				t.Errorf("%s: no volume %s", file, m.Name)
			}
			if m.SubPath != "" {
				t.Errorf("%s: the mount of %s has a subPath, which does not follow changes", file, m.Name)
			}
		}
		for _, probe := range []*corev1.Probe{c.ReadinessProbe, c.LivenessProbe} {
			if probe == nil || probe.HTTPGet == nil || !ports[probe.HTTPGet.Port.StrVal] {
				t.Errorf("%s: the probe %+v has no port of the container", file, probe)
			}
		}
		preStop := c.Lifecycle.PreStop.Sleep.Seconds
		if grace := *pod.TerminationGracePeriodSeconds; grace <= preStop+25 {
			t.Errorf("%s: %d s to end, but preStop takes %d s and the relay's shutdown_timeout 25 s", file, grace, preStop)
		}
	}
}
