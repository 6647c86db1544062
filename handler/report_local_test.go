package handler

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// localFailures returns the journal's entries about local failures.
func localFailures(r *rig) (list []Entry) {
	for _, e := range r.service.Journal.Entries() {
		if e.Kind == KindLocal {
			list = append(list, e)
		}
	}
	return list
}

// Local failures are counted, kept as the last failure, and logged once until an
// attempt succeeds or fails by the backend's fault.
func TestLocalFailuresAreReported(t *testing.T) {
	const noRoute, live = "192.0.2.1:53", "192.0.2.2:53"
	r := newUDPRig(t, []string{noRoute, live})
	reachable := false
	r.engine.onOpen = func(addr netip.AddrPort) error {
		if addr.String() == noRoute && !reachable {
			return errNoRoute
		}
		return nil
	}
	for n := range 3 {
		r.deliver(n, new(udpClient), "a")
	}
	r.engine.wants(t, "open "+noRoute+": "+errNoRoute.Error(), "1 open "+live, "1 < a",
		"open "+noRoute+": "+errNoRoute.Error(), "2 open "+live, "2 < a",
		"open "+noRoute+": "+errNoRoute.Error(), "3 open "+live, "3 < a")
	line := r.line("attempt failed on this machine").ContextMap()
	if line["backend"] != noRoute || line["address"] != noRoute || line["network"] != "udp" || line["error"] != errNoRoute.Error() {
		t.Errorf("the line is %v", line)
	}
	s := r.status(noRoute, upstream.UDP)
	if s.FailedLocal != 3 || s.Failed != 0 || s.State != upstream.Up || s.Strikes != 0 {
		t.Errorf("the status is %+v", s)
	}
	if s.LastFailure.Error != errNoRoute.Error() || s.LastFailure.Address.String() != noRoute {
		t.Errorf("the last failure is %+v", s.LastFailure)
	}
	entries := localFailures(r.rig)
	if len(entries) != 1 {
		t.Fatalf("%d entries, want one", len(entries))
	}
	if got := entries[0].String(); !strings.Contains(got, "local failure: this machine cannot reach "+noRoute) || !strings.Contains(got, "unreachable") {
		t.Errorf("the entry is %q", got)
	}

	reachable = true
	r.deliver(3, new(udpClient), "a")
	r.engine.socket(4).answer("A")
	reachable = false
	r.deliver(4, new(udpClient), "a")
	if got := len(localFailures(r.rig)); got != 2 {
		t.Errorf("%d entries after a second episode, want two", got)
	}
}

// A failure of the backend ends an episode, too.
func TestLocalEpisodeEnds(t *testing.T) {
	r := newUDPRig(t, []string{"192.0.2.1:53"})
	failLocally := func() {
		walk := r.service.Pool.Walk(upstream.UDP)
		a, _ := walk.Next(time.Now())
		r.relay.recordFailure(&walk, outcome{attempt: a, err: fmt.Errorf("open: %w", errNoRoute)}, upstream.UDP, healthCheckSource{})
	}
	failLocally()
	failLocally()
	walk := r.service.Pool.Walk(upstream.UDP)
	a, _ := walk.Next(time.Now())
	r.relay.recordFailure(&walk, outcome{attempt: a, err: errRefused}, upstream.UDP, healthCheckSource{})
	failLocally()
	if got := len(localFailures(r.rig)); got != 2 {
		t.Errorf("%d entries, want two", got)
	}
}
