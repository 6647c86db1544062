package relay_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// The tests in this file check init/.

func readInit(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("init", name))
	relaytest.Check(t, err)
	return string(text)
}

var stopTimeout = regexp.MustCompile(`(?m)^(?:TimeoutStopSec|\s*stop_grace_period)[=:]\s*(\S+)$`)

// Each manager waits longer than a relay drains by default.
func TestStopTimeouts(t *testing.T) {
	for _, name := range []string{"async-relay.service", "caddy.service.d/relay.conf", "compose.yaml"} {
		found := stopTimeout.FindStringSubmatch(readInit(t, name))
		if found == nil {
			t.Errorf("%s sets no timeout", name)
			continue
		}
		if d, err := time.ParseDuration(found[1]); err != nil || d < caddyfile.DefaultShutdownTimeout+5*time.Second {
			t.Errorf("%s waits %s, the relay drains %s", name, found[1], caddyfile.DefaultShutdownTimeout)
		}
	}
}

// systemd accepts the unit and the drop-in, and finds the unit well confined.
func TestSystemdUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	program, err := exec.LookPath("true")
	relaytest.Check(t, err)
	dir := t.TempDir()
	write := func(name, text string) {
		relaytest.Check(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		relaytest.Check(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	write("async-relay.service", strings.ReplaceAll(readInit(t, "async-relay.service"), "/usr/bin/caddy", program))
	write("caddy.service", "[Unit]\nDescription=Caddy\n[Service]\nType=notify\nExecStart="+program+" run\nTimeoutStopSec=5s\n")
	write("caddy.service.d/relay.conf", readInit(t, "caddy.service.d/relay.conf"))
	run := func(args ...string) string {
		out, err := exec.CommandContext(t.Context(), analyze, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("systemd-analyze %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	for _, unit := range []string{"async-relay.service", "caddy.service"} {
		if out := run("verify", "--man=no", "--recursive-errors=no", filepath.Join(dir, unit)); strings.TrimSpace(out) != "" {
			t.Errorf("%s: %s", unit, out)
		}
	}
	// 0 is fully confined, 10 not at all.
	run("security", "--offline=true", "--threshold=25", filepath.Join(dir, "async-relay.service"))
}

// What the Dockerfile copies and the compose file mounts exists.
func TestContainerFiles(t *testing.T) {
	list, err := os.ReadFile(".dockerignore")
	relaytest.Check(t, err)
	ignored := strings.Fields(string(list))
	for line := range strings.Lines(readInit(t, "Dockerfile")) {
		words := strings.Fields(line)
		if len(words) < 3 || words[0] != "COPY" || strings.HasPrefix(words[1], "--from") {
			continue
		}
		for _, source := range words[1 : len(words)-1] {
			if _, err := os.Stat(source); err != nil {
				t.Errorf("the Dockerfile copies %s: %v", source, err)
			}
			for _, pattern := range ignored {
				if source == pattern || strings.HasPrefix(source, pattern+"/") {
					t.Errorf("the Dockerfile copies %s, which .dockerignore leaves out", source)
				}
			}
		}
	}
	var compose struct {
		Services map[string]struct {
			Build   struct{ Context, Dockerfile string }
			Volumes []string
		}
	}
	relaytest.Check(t, yaml.Unmarshal([]byte(readInit(t, "compose.yaml")), &compose))
	relay := compose.Services["relay"]
	if _, err := os.Stat(filepath.Join("init", relay.Build.Context, relay.Build.Dockerfile)); err != nil {
		t.Error(err)
	}
	for _, volume := range relay.Volumes {
		source, _, _ := strings.Cut(volume, ":")
		if info, err := os.Stat(filepath.Join("init", source)); strings.HasPrefix(source, ".") && (err != nil || !info.IsDir()) {
			t.Errorf("the compose file mounts %s, which is no folder: %v", source, err)
		}
	}
	text, err := os.ReadFile("init/compose/Caddyfile")
	relaytest.Check(t, err)
	checkConfig(t, "caddyfile", text)
}

// The image can be built, and runs without root, capabilities and a writable root. Its
// health check passes, and it ends by the signal of a stop.
func TestDockerImage(t *testing.T) {
	command := strings.Fields(os.Getenv("RELAY_DOCKER"))
	if len(command) == 0 {
		t.Skip("set RELAY_DOCKER to docker or podman, with its flags, to build the image, which downloads all modules")
	}
	docker := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(command[0], append(command[1:], args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", command[0], args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	const name = "caddy-relay-test"
	docker("build", "-f", "init/Dockerfile", "-t", name, ".")
	docker("run", "-d", "--name", name, "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none", "--stop-timeout", "30", name)
	defer docker("rm", "-f", name)
	relaytest.Eventually(t, "the health check to pass", func() bool {
		return exec.Command(command[0], append(command[1:], "exec", name, "caddy", "relay", "health")...).Run() == nil
	})
	docker("stop", name)
	if status := docker("inspect", "--format", "{{.State.ExitCode}}", name); status != "0" {
		t.Errorf("status %s: %s", status, docker("logs", name))
	}
}

// The Caddyfile in the ConfigMap of Kubernetes is valid, and its health site exists.
func TestKubernetesConfig(t *testing.T) {
	for document := range strings.SplitSeq(readInit(t, "kubernetes/relay.yaml"), "\n---\n") {
		var object struct {
			Kind string
			Data map[string]string
		}
		relaytest.Check(t, yaml.Unmarshal([]byte(document+"\n"), &object))
		if object.Kind == "ConfigMap" {
			checkConfig(t, "caddyfile", []byte(object.Data["Caddyfile"]))
			return
		}
	}
	t.Error("there is no ConfigMap")
}
