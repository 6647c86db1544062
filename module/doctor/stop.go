package doctor

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// defaultUnit is the unit of Caddy's own packages.
const defaultUnit = "caddy.service"

// systemctlTimeout bounds the wait for systemctl.
const systemctlTimeout = 2 * time.Second

// The times that Docker and Kubernetes wait by default between SIGTERM and SIGKILL.
const (
	dockerStop     = 10 * time.Second
	kubernetesStop = 30 * time.Second
)

// checkStop compares shutdown_timeout with the time after which the service manager
// kills the process.
func (e *examination) checkStop() {
	var longest time.Duration
	for _, r := range e.plan.relays {
		longest = max(longest, r.options.ShutdownTimeout)
	}
	if len(e.plan.relays) == 0 {
		return
	}
	unit := unitOf(e.pid)
	if unit == "" && e.pid == 0 {
		unit = defaultUnit
	}
	if p, ok := propertiesOf(e.ctx, unit); ok {
		e.checkUnit(unit, p, longest)
		return
	}
	switch {
	case os.Getenv("KUBERNETES_SERVICE_HOST") != "":
		e.compareStop("terminationGracePeriodSeconds of the pod (default: 30)", kubernetesStop, longest, fmt.Sprintf("set terminationGracePeriodSeconds: %d", seconds(longest)))
	case inContainer():
		e.compareStop("the stop timeout of the container (Docker's default: 10s)", dockerStop, longest, fmt.Sprintf("run it with --stop-timeout %d, or stop_grace_period: %[1]ds in Compose", seconds(longest)))
	default:
		e.ok("stop", "shutdown_timeout %s; no systemd unit or container found that would kill Caddy before", longest)
	}
}

// compareStop reports a limit that cannot be read from inside, only assumed.
func (e *examination) compareStop(what string, limit, longest time.Duration, advice string) {
	if longest < limit {
		e.ok("stop", "shutdown_timeout %s is below %s", longest, what)
		return
	}
	e.warn("stop", advice, "shutdown_timeout %s is not below %s: the process may be killed while it drains", longest, what)
}

// seconds returns the stop timeout that leaves some time after a shutdown timeout.
func seconds(shutdown time.Duration) int { return int(shutdown.Seconds()) + 5 }

func (e *examination) checkUnit(unit string, p map[string]string, longest time.Duration) {
	limit, ok := parseTimespan(p["TimeoutStopUSec"])
	switch {
	case !ok:
		e.ok("stop", "shutdown_timeout %s; %s has no stop timeout", longest, unit)
	case limit > longest:
		e.ok("stop", "shutdown_timeout %s is below TimeoutStopSec %s of %s", longest, limit, unit)
	case strings.HasPrefix(p["Type"], "notify"):
		e.ok("stop", "shutdown_timeout %s is above TimeoutStopSec %s of %s, and Caddy asks systemd for that time (Type=%s)", longest, limit, unit, p["Type"])
	default:
		e.warn("stop", fmt.Sprintf("set TimeoutStopSec=%d in a drop-in (systemctl edit %s), or Type=notify", seconds(longest), unit),
			"shutdown_timeout %s is above TimeoutStopSec %s of %s: the process is killed while it drains", longest, limit, unit)
	}
	if n, err := strconv.ParseUint(p["LimitNOFILE"], 10, 64); err == nil && n < fewDescriptors {
		e.warn("stop", "set LimitNOFILE=1048576 in a drop-in", "%s limits descriptors to %d", unit, n)
	}
}

// propertiesOf returns properties of a loaded systemd unit.
func propertiesOf(ctx context.Context, unit string) (map[string]string, bool) {
	if unit == "" {
		return nil, false
	}
	ctx, cancel := context.WithTimeout(ctx, systemctlTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", "show", "--property=LoadState,Type,TimeoutStopUSec,LimitNOFILE", unit).Output()
	if err != nil {
		return nil, false
	}
	p := make(map[string]string)
	for line := range bytes.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(string(line)), "=")
		p[key] = value
	}
	return p, p["LoadState"] == "loaded"
}

// timespanPart matches one part of a span of time in the output of systemctl.
var timespanPart = regexp.MustCompile(`^(\d+(?:\.\d+)?)(us|ms|s|min|h|d|w)$`)

var timespanUnits = map[string]time.Duration{
	"us": time.Microsecond, "ms": time.Millisecond, "s": time.Second, "min": time.Minute,
	"h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour,
}

// parseTimespan parses a span of time such as "1min 30s". ok is false for "infinity"
// and for what is none.
func parseTimespan(text string) (span time.Duration, ok bool) {
	for part := range strings.FieldsSeq(text) {
		m := timespanPart.FindStringSubmatch(part)
		if m == nil {
			return 0, false
		}
		n, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return 0, false
		}
		span, ok = span+time.Duration(n*float64(timespanUnits[m[2]])), true
	}
	return span, ok
}

// unitIn returns the systemd service in the path of a control group, or "".
func unitIn(group string) string {
	for ; group != "/" && group != "." && group != ""; group = path.Dir(group) {
		if base := path.Base(group); strings.HasSuffix(base, ".service") && !strings.HasPrefix(base, "user@") {
			return base
		}
	}
	return ""
}

// inContainer reports whether this process is in a container of Docker, Podman or
// containerd.
func inContainer() bool {
	for _, file := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Stat(file); err == nil {
			return true
		}
	}
	groups, _ := os.ReadFile("/proc/1/cgroup")
	return regexp.MustCompile(`docker|kubepods|containerd|libpod`).Match(groups)
}
